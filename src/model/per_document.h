// Methods that are optimised anew for every context: what the loop around them (train/document_compiler.h)
// needs to know.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer.h"
#include "model/compressor.h"

namespace ctxc {

/// One context, read once by the frozen base.
struct Document {
  Tokens header;               ///< ids of the first rows
  int64_t prefix = 0;          ///< rows in front of the context: the header, and slots of earlier segments
  Tokens context;              ///< stands at positions prefix..prefix+L-1
  std::vector<KvPair> frozen;  ///< keys and values of prefix and context, [1, G, prefix + L, E] a layer
  Tensor start_KD = {};  ///< slots of a trained compressor for this context, to start from; undefined = none
  std::vector<KvPair> start_kv =
      {};  ///< or its keys and values, [1, G, K, E] at positions prefix..prefix+K-1
  int64_t length() const { return static_cast<int64_t>(context.size()); }
  /// The first `rows` rows of `frozen`.
  std::vector<KvPair> first_rows(int64_t rows) const;
};

/// Trained tensors that share a learning rate.
struct ParameterGroup {
  std::string name;
  std::vector<std::pair<std::string, Tensor>> tensors;  ///< float32 leaves with requires_grad
  double lr = 0;                                        ///< peak; 0 = train.lr
};

/// How the context is asked for again (keys `recon.…`).
struct ReconRecipe {
  std::string loss = "mix";  ///< kl | ce | mix | none
  std::string prompt = "Please repeat the context.";
  std::string continue_prompt = "Repeat the part of the context that follows:";
  int64_t chunk = 1024;  ///< 0 = the whole context, in pieces of 1024
  void describe(Fields& f);
};

/// What is kept of the teacher at every target position of an item that is trained on (keys `teacher.…`).
struct TeacherRecipe {
  std::string store = "hidden";  ///< hidden | topk
  int64_t top_k = 20;
  void describe(Fields& f);
};

/// What is optimised (lcc.md section 4), as keys of the method's flat section.
struct CompileRecipe {
  std::string lambda = "1";       ///< weight of the random queries, or auto
  std::string align_loss = "kl";  ///< kl | reverse_kl | mse | ce
  ReconRecipe recon;
  TeacherRecipe teacher;
  double tau = 1;
  int64_t patience = 4;  ///< checks without progress before a compile stops; 0 = never
  bool coupled = false;  ///< ablation: adapters also in the read pass
  int64_t segment_tokens = 4096;
  std::string segments = "independent";  ///< independent | chained
  std::string storage = "bfloat16";
  std::string warm_start;  ///< trained compressor of the same base whose memory a compile starts from
  void describe(Fields& f);
  /// The weights to compile with. Error kUsage where `lambda` is no number and not auto.
  std::vector<double> lambdas() const;
};

class PerDocument : public Compressor {
 public:
  Scope scope() const final { return Scope::kPerDocument; }
  virtual const CompileRecipe& recipe() const = 0;
  /// Forgets everything and sets up the parameters of this document.
  virtual void begin(const Backbone& backbone, const Document& document) = 0;
  /// The memory as the parameters are now, [1, prefix + K], with gradients into them. `key`: where in
  /// training a step's random numbers are drawn, or that it is none.
  virtual Memory memory(const Backbone& backbone, const StepKey& key = {.training = false}) = 0;
  /// Empty where nothing is trained.
  virtual std::vector<ParameterGroup> groups() const = 0;
  /// The adapters of the compile pass, for recipes that couple them; they see the parameters as they are.
  virtual std::optional<Adapters> adapters() const = 0;
  /// Batches of contexts are for amortised methods: Error kUsage.
  Compressed compress(Context& context, const StepKey& key, const State& in = {}) final;
};

/// Keys and values as a memory of one row at positions 0..N-1 without a head of its own.
Memory kv_memory(std::vector<KvPair> kv);

/// Memories of keys and values as the rows of one, in their order: shorter ones are padded, what stands
/// behind them is masked, and text goes on where it would behind each alone. Error kInternal where one has
/// slots or a head of its own.
Memory stacked(const std::vector<Memory>& memories);

/// Reads a document: its prefix is the header alone, or `prefix` where rows of earlier segments are given.
Document read_document(const Backbone& backbone, const Tokens& header, const Tokens& context,
                       const std::vector<KvPair>& prefix = {});

}  // namespace ctxc
