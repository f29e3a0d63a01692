// llamacpp-lora: adapters that ctxc-run compile --keep-lora kept, as an adapter file of llama.cpp (GGUF v3,
// export-formats.md section 6.3): blk.L.attn_q.weight.lora_a [R, in], .lora_b [out, R], scale alpha / rank.
// llama.cpp rotates neighbouring channels, so the rows of lora_b of q and k are interleaved within every
// head, as those of the weights are.
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "model/lora_artifact.h"

namespace ctxc {
namespace {

constexpr uint32_t kFloatValue = 6, kStringValue = 8;
constexpr size_t kAlignment = 32;

const std::map<std::string, std::string> kNames = {
    {"q_proj", "attn_q"},      {"k_proj", "attn_k"},  {"v_proj", "attn_v"},     {"o_proj", "attn_output"},
    {"gate_proj", "ffn_gate"}, {"up_proj", "ffn_up"}, {"down_proj", "ffn_down"}};

class GgufBytes {
 public:
  void string(const std::string& key, const std::string& value) {
    text(keys_, key);
    put(keys_, kStringValue);
    text(keys_, value);
    ++key_count_;
  }
  void number(const std::string& key, float value) {
    text(keys_, key);
    put(keys_, kFloatValue);
    put(keys_, value);
    ++key_count_;
  }
  /// [rows, columns]; the file lists the innermost extent first.
  void tensor(const std::string& name, const Tensor& matrix, uint32_t type) {
    pad(data_);
    text(table_, name);
    put(table_, uint32_t{2});
    put(table_, static_cast<uint64_t>(matrix.size(1)));
    put(table_, static_cast<uint64_t>(matrix.size(0)));
    put(table_, type);
    put(table_, static_cast<uint64_t>(data_.size()));
    data_.append(static_cast<const char*>(matrix.const_data_ptr()), matrix.nbytes());
    ++tensor_count_;
  }
  std::string bytes() const {
    std::string all = "GGUF";
    put(all, uint32_t{3});
    put(all, tensor_count_);
    put(all, key_count_);
    all += keys_ + table_;
    pad(all);
    return all + data_;
  }

 private:
  template <class T>
  static void put(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void text(std::string& to, const std::string& value) {
    put(to, static_cast<uint64_t>(value.size()));
    to += value;
  }
  static void pad(std::string& to) {
    to.resize((to.size() + kAlignment - 1) / kAlignment * kAlignment, '\0');
  }
  std::string keys_, table_, data_;
  uint64_t key_count_ = 0, tensor_count_ = 0;
};

/// Rows of every head x0..xE-1 -> x0, xE/2, x1, …
Tensor interleaved(const Tensor& b_DR, int64_t width) {
  return b_DR.view({-1, 2, width / 2, b_DR.size(1)}).transpose(1, 2).reshape(b_DR.sizes());
}

void write_llamacpp_lora(const ExportRequest& request) {
  const LoraArtifact lora = load_lora(request.in);
  const std::string dtype = request.dtype.empty() ? "float32" : request.dtype;
  CTXC_CHECK(dtype == "float32" || dtype == "float16", ErrorKind::kUsage, "",
             "llamacpp-lora: unknown type (found '{}', expected f32 or f16)", dtype);
  const Json model = lora.info["model"];
  const int64_t width = json_at<int64_t>(model, "head_dim", request.in);
  GgufBytes file;
  file.string("general.architecture", "llama");
  file.string("general.type", "adapter");
  file.string("general.name", "ctxc");
  file.string("adapter.type", "lora");
  file.number("adapter.lora.alpha", static_cast<float>(lora.config.alpha));
  for (const auto& [name, tensor] : lora.tensors) {
    const LoraName part = lora_name(name, request.in);
    const bool turned = part.half == "lora_B" && (part.projection == "q_proj" || part.projection == "k_proj");
    const Tensor stored = (turned ? interleaved(tensor, width) : tensor).to(float_type(dtype)).contiguous();
    file.tensor(fmt::format("blk.{}.{}.weight.{}", part.layer, kNames.at(part.projection),
                            part.half == "lora_A" ? "lora_a" : "lora_b"),
                stored, dtype == "float32" ? 0 : 1);
  }
  write_file_atomic(request.out, file.bytes());
}

CTXC_REGISTER_EXPORTER(llamacpp_lora, "llamacpp-lora", false, write_llamacpp_lora,
                       "adapters kept by ctxc-run compile --keep-lora as an adapter file of llama.cpp");

}  // namespace
}  // namespace ctxc
