#include "model/per_document.h"

#include <cstdlib>

#include "core/error.h"
#include "model/memory_artifact.h"

namespace ctxc {

void ReconRecipe::describe(Fields& f) {
  f("loss", loss, "mix: half cross-entropy, half KL; none: no reconstruction")
      .one_of({"kl", "ce", "mix", "none"});
  f("prompt", prompt, "request for the beginning of the context");
  f("continue_prompt", continue_prompt, "request for a later part, followed by the 8 tokens in front of it");
  f("chunk", chunk,
    "longest part that is asked for, at most half the context; 0: the whole context (in parts of 1024)")
      .min(0)
      .unit("tokens");
}

void TeacherRecipe::describe(Fields& f) {
  f("store", store,
    "hidden: hidden states, the KL is exact; topk: the likeliest tokens' probabilities and the rest as one, "
    "which bounds it from below (measurements stay exact)")
      .one_of({"hidden", "topk"});
  f("top_k", top_k, "with store: topk, tokens kept").min(1).unit("tokens");
}

void CompileRecipe::describe(Fields& f) {
  f("lambda", lambda,
    "weight of the random queries beside the reconstruction; auto: compile with 0.3, 1 and 3 and choose");
  f("align_loss", align_loss,
    "on random queries: KL to the teacher (forward or reverse), squared error of the logits, cross-entropy "
    "of "
    "the teacher's answer")
      .one_of({"kl", "reverse_kl", "mse", "ce"});
  f.section("recon", recon, "the context asked for again, part by part");
  f.section("teacher", teacher, "what is kept of the base that reads the context");
  f("tau", tau, "temperature of both distributions").above(0);
  f("patience", patience, "checks without 1 % of progress before a compile stops; 0: never").min(0);
  f("coupled", coupled, "ablation: adapters stay on in the read pass");
  f("segment_tokens", segment_tokens, "longer contexts are compiled in parts of this many tokens")
      .min(32)
      .unit("tokens");
  f("segments", segments, "parts know nothing of each other, or see the slots of those before them")
      .one_of({"independent", "chained"});
  f("warm_start", warm_start,
    "run or checkpoint of a trained compressor of the same base, whose memory is the start, as large as it "
    "is: "
    "slots (comprexit, diffusion) as buffers, keys and values (500x) for optimise: kv");
  f("storage", storage, "type of the artifact's numbers").one_of({"float32", "float16", "bfloat16", "int8"});
}

std::vector<double> CompileRecipe::lambdas() const {
  if (lambda == "auto") return {0.3, 1, 3};
  char* end = nullptr;
  const double value = std::strtod(lambda.c_str(), &end);
  CTXC_CHECK(!lambda.empty() && *end == 0 && value >= 0 && value < 1e6, ErrorKind::kUsage, "",
             "compressor.lambda: wrong value (found '{}', expected a number of at least 0, or auto)", lambda);
  CTXC_CHECK(value > 0 || recon.loss != "none", ErrorKind::kUsage, "raise compressor.lambda",
             "compressor.lambda is 0 and compressor.recon.loss is none: nothing to learn from");
  return {value};
}

std::vector<KvPair> Document::first_rows(int64_t rows) const {
  std::vector<KvPair> result;
  for (const KvPair& pair : frozen)
    result.push_back({pair.key_BGKE.narrow(2, 0, rows), pair.value_BGKE.narrow(2, 0, rows)});
  return result;
}

Compressed PerDocument::compress(Context&, const StepKey&, const State&) {
  throw Error(ErrorKind::kUsage,
              "this method compiles one context at a time, it has no encoder to apply to others",
              "ctxc-run compile, or ctxc-train with data.contexts");
}

Memory kv_memory(std::vector<KvPair> kv) {
  Memory memory;
  const auto device = kv.at(0).key_BGKE.device();
  const int64_t rows = kv[0].key_BGKE.size(2);
  memory.kv = std::move(kv);
  memory.head_ids_BP = at::empty({1, 0}, at::TensorOptions().dtype(at::kLong).device(device));
  memory.mask_BK = at::ones({1, rows}, at::TensorOptions().dtype(at::kBool).device(device));
  number_densely(memory, 0);
  return memory;
}

Memory stacked(const std::vector<Memory>& memories) {
  int64_t longest = 0;
  for (const Memory& memory : memories) {
    CTXC_CHECK(!memory.kv.empty() && memory.head_ids_BP.size(1) == 0, ErrorKind::kInternal, "",
               "stacked: a memory has slots or a head (expected keys and values alone)");
    longest = std::max(longest, memory.slots());
  }
  // Along dimension `dim`, of the rows of all memories.
  const auto joined = [&](const auto& part, int64_t dim) {
    std::vector<Tensor> rows;
    for (const Memory& memory : memories) {
      const Tensor tensor = part(memory);
      std::vector<int64_t> padding(2 * (tensor.dim() - dim), 0);
      padding.back() = longest - tensor.size(dim);
      rows.push_back(at::constant_pad_nd(tensor, padding));
    }
    return at::cat(rows);
  };
  Memory all;
  for (size_t layer = 0; layer < memories.at(0).kv.size(); ++layer)
    all.kv.push_back({joined([&](const Memory& memory) { return memory.kv.at(layer).key_BGKE; }, 2),
                      joined([&](const Memory& memory) { return memory.kv.at(layer).value_BGKE; }, 2)});
  all.mask_BK = joined([](const Memory& memory) { return memory.mask_BK; }, 1);
  all.position_BK = joined([](const Memory& memory) { return memory.position_BK; }, 1);
  all.head_ids_BP = memories[0].head_ids_BP.new_empty({all.batch(), 0});
  std::vector<Tensor> next;
  for (const Memory& memory : memories) next.push_back(memory.next_position_B);
  all.next_position_B = at::cat(next);
  return all;
}

Document read_document(const Backbone& backbone, const Tokens& header, const Tokens& context,
                       const std::vector<KvPair>& prefix) {
  const at::NoGradGuard no_grad;
  Document document;
  document.header = header;
  document.context = context;
  if (prefix.empty()) {
    Tokens all = header;
    all.insert(all.end(), context.begin(), context.end());
    document.prefix = static_cast<int64_t>(header.size());
    document.frozen = read_kv(backbone, all);
    return document;
  }
  document.prefix = prefix[0].key_BGKE.size(2);
  const int64_t length = document.length();
  const std::vector<int64_t> ids(context.begin(), context.end());
  PackedRows rows;
  rows.embeds_PD = backbone.embed(at::tensor(ids, at::kLong));
  rows.positions_P = at::arange(document.prefix, document.prefix + length, at::kLong).to(backbone.device());
  rows.segments = {{.length = length, .mask_TS = {}, .prefix_row = 0}};
  rows.prefix = prefix;
  const auto kv = backbone.forward(rows, {.collect = {}, .layers = 0, .keep_kv = true}).kv;
  for (size_t layer = 0; layer < kv.size(); ++layer)
    document.frozen.push_back({at::cat({prefix[layer].key_BGKE, kv[layer].key_BGKE}, 2),
                               at::cat({prefix[layer].value_BGKE, kv[layer].value_BGKE}, 2)});
  return document;
}

}  // namespace ctxc
