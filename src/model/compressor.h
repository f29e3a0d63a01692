// The interface of a method, its registry, and what it gets to see of a batch.
// A new method is one file in compressors/ and one config (CONTRIBUTING.md).
#pragma once
#include <torch/nn/module.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/config.h"
#include "core/random.h"
#include "core/registry.h"
#include "data/batch.h"
#include "model/backbone.h"
#include "model/memory.h"

namespace ctxc {

/// Named scalars: parts of a loss (weighted by section `objective`), or numbers to log; `alarm_…` other than
/// 0 is shown on the progress line.
using Terms = std::map<std::string, Tensor>;
/// Opaque, savable state of streaming methods.
using State = std::map<std::string, Tensor>;

class HiddenCache;  ///< model/hidden_cache.h
struct HiddenRequest;

/// A packed batch of contexts and their frozen hidden states, computed once and only for the layers asked
/// for.
class Context {
 public:
  Context(const Backbone& backbone, std::vector<Tokens> contexts, int64_t padded_length = 0);
  Context(const Backbone& backbone, const Batch& batch);

  const Backbone& backbone() const { return backbone_; }
  int64_t batch() const { return static_cast<int64_t>(lengths_.size()); }
  const std::vector<int64_t>& lengths() const { return lengths_; }
  const std::vector<int64_t>& offsets() const { return offsets_; }  ///< first packed index of each row
  int64_t tokens() const { return ids_P_.size(0); }
  const Tensor& ids_P() const { return ids_P_; }  ///< int64
  /// Columns of the padded grid (>= the longest row): where `grid: padded` puts its windows.
  int64_t padded_length() const { return padded_length_; }

  /// Frozen hidden states [P, D] of these layers, without autograd (with it only if the backbone trains),
  /// computed in one pass for all layers of a call and cached. `layers`: run only that many layers (see
  /// ForwardOptions). `piece` > 0: the base reads every row in pieces of that many tokens, each for itself
  /// from position 0, so that a text may be longer than its window and streams give what one call gives.
  std::vector<Tensor> hidden(const std::vector<int64_t>& indices, int64_t layers = 0, int64_t piece = 0);
  /// hidden() reads from and adds to a cache on disk, which rounds to bfloat16 and must outlive this.
  void use_cache(HiddenCache* cache) { disk_ = cache; }
  /// Input embeddings [P, D].
  Tensor embed() const;
  /// Another pass over these tokens, e.g. with adapters and memory tokens; nothing is cached.
  ForwardResult run(const PackedRows& rows, const ForwardOptions& options) const {
    return backbone_.forward(rows, options);
  }

 private:
  /// The states of these rows, computed: [tokens of the rows, D] a layer.
  std::vector<Tensor> compute(const HiddenRequest& request, const std::vector<size_t>& rows) const;
  std::vector<Tensor> cached(const HiddenRequest& request) const;

  const Backbone& backbone_;
  std::vector<int64_t> lengths_, offsets_;
  HiddenCache* disk_ = nullptr;
  Tensor ids_P_;
  int64_t padded_length_ = 0, cached_layers_ = -1, cached_piece_ = 0;
  std::map<int64_t, Tensor> cache_;
};

struct Compressed {
  Memory memory;
  Terms aux;  ///< e.g. {"kl", …}: weighted in `objective`, logged
  State state;
};

enum class Scope { kAmortized, kPerDocument };

/// What a method needs of the backbone, for the planner.
struct Needs {
  std::vector<int64_t> hidden;  ///< hidden states read
  int64_t layers = 0;           ///< layers run; 0 = all
  bool lora = false;
  bool kv = false;  ///< keys and values of the pass, of which the memory is made
};

/// What a method is built from besides its own configuration.
struct CompressorSetup {
  LlamaConfig backbone;
  std::vector<int64_t> head_ids;  ///< ids in front of the slots (BOS), from Prompt
  uint64_t seed = 0;              ///< of the initial parameters
  /// The base's embedding table where its weights are at hand (a run that starts): initial values may be made
  /// from it. Undefined in a dry run and where parameters are loaded afterwards.
  Tensor embedding_VD = {};
};

/// A method's parameters are what is trained and saved with it. Its registered buffers are training state
/// (running moments, queues): the trainer keeps them in checkpoints for a resumed run; results never depend
/// on them.
class Compressor : public torch::nn::Module {
 public:
  virtual Scope scope() const { return Scope::kAmortized; }
  virtual Needs needs() const = 0;
  /// Slots a context of this many tokens becomes.
  virtual int64_t slots_for(int64_t context_tokens) const = 0;
  /// Context tokens per vector that the decoder reads (the head excepted): slots_for(n) <= ceil(n / ratio()).
  /// 0 = the method promises none.
  virtual int64_t ratio() const { return 0; }
  /// `in`: the state that compress() gave for the text in front of this one (see stream_tokens()).
  virtual Compressed compress(Context& context, const StepKey& key, const State& in = {}) = 0;
  /// A text may be given in parts, each a multiple of so many tokens except the last, with the state carried
  /// from call to call: the last call's memory is that of the whole text. 0 = the method needs all of it.
  virtual int64_t stream_tokens() const { return 0; }
  /// The resolved configuration as YAML (what a checkpoint stores).
  virtual std::string config_yaml() const = 0;
  /// Parameters that cannot get a gradient, with the reason ("shift of a softmax").
  virtual std::map<std::string, std::string> idle_parameters() const { return {}; }
  /// Parameters that weight decay leaves alone though they have two dimensions: vectors that a method starts
  /// to read from (a state, a buffer) are values, not maps. Decay would pull them to zero, and a normalised
  /// state to where its norm's gradient explodes.
  virtual std::vector<std::string> undecayed_parameters() const { return {}; }
  /// Intermediate tensors of the last compress() when record(true) was called: for trace and pictures.
  virtual void record(bool on) { recording_ = on; }
  const std::map<std::string, Tensor>& recorded() const { return recorded_; }

 protected:
  bool recording_ = false;
  std::map<std::string, Tensor> recorded_;
};

class PerDocument;  ///< model/per_document.h: methods that are optimised anew for every context

struct CompressorEntry {
  /// Parses the flat section `compressor` (strictly) and builds the method.
  std::function<std::shared_ptr<Compressor>(const Yaml& section, const CompressorSetup& setup)> create;
  std::function<std::string(const std::string& key)> help;  ///< help_for() of its configuration
  /// The section (whose key is `path`, as errors name it) with defaults filled in.
  std::function<std::string(const Yaml& section, const std::string& path)> resolve;
  Scope scope = Scope::kAmortized;
};
Registry<CompressorEntry>& compressor_registry();

/// The section of a method (whose key is `path`) with its name, and the defaults of its keys filled in. Error
/// kUsage: no or an unknown name, an unknown key, a wrong value.
Yaml resolve_compressor(const Yaml& section, const std::string& path = "compressor");

/// Builds the method that `section["name"]` names. Error kUsage.
std::shared_ptr<Compressor> make_compressor(const Yaml& section, const CompressorSetup& setup);

namespace detail {
template <class Method>
CompressorEntry compressor_entry() {
  using Config = typename Method::Config;
  return {[](const Yaml& section, const CompressorSetup& setup) -> std::shared_ptr<Compressor> {
            Config config;
            read_config(section, config, "compressor", {"name"});
            return std::make_shared<Method>(config, setup);
          },
          [](const std::string& key) {
            Config config;
            Fields fields;
            config.describe(fields);
            return help_for(fields, key, "compressor");
          },
          [](const Yaml& section, const std::string& path) {
            Config config;
            read_config(section, config, path, {"name"});
            return dump_config(config);
          },
          std::is_base_of_v<PerDocument, Method> ? Scope::kPerDocument : Scope::kAmortized};
}
}  // namespace detail

/// At file scope of a method: registers `Class` (which has `struct Config` with describe(), and a constructor
/// Class(Config, CompressorSetup)) under a name with one line of help.
#define CTXC_REGISTER_COMPRESSOR(name, Class, help) \
  static const bool registered_##Class =            \
      ::ctxc::compressor_registry().add(name, ::ctxc::detail::compressor_entry<Class>(), help)

}  // namespace ctxc
