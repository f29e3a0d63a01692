// Model files become named tensors: safetensors (one file or shards) and GGUF, strict about keys, shapes and
// dtypes.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "model/llama_config.h"
#include "model/shapes.h"

namespace ctxc {

/// A tensor over the bytes of a view without a copy; `owner` keeps the mapping alive for as long as the
/// tensor lives. Misaligned views are copied.
Tensor tensor_from_view(const TensorView& view, std::shared_ptr<const void> owner);
at::ScalarType scalar_type(DType dtype);
DType dtype_of(at::ScalarType type);
/// A view of a contiguous CPU tensor (which must outlive the view).
TensorView view_of(const Tensor& tensor);
/// All tensors of a safetensors file / a folder, mapped, by name.
std::map<std::string, Tensor> load_tensors(const std::string& path);
/// Writes contiguous CPU tensors atomically.
void save_tensors(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                  const std::map<std::string, std::string>& metadata = {});

/// The tensors of a Llama under their Hugging Face names ("model.layers.0.self_attn.q_proj.weight", …,
/// "lm_head.weight" only if untied). From a folder or a .safetensors file they stay mapped in their own
/// dtype; from GGUF they are dequantised to float32 and the rows of q and k are put back from interleaved to
/// rotate-half order. `prefix` is cut from the names first ("lm." in ComprExIT checkpoints; other names are
/// then ignored). One Error kInput lists every missing, unexpected and wrongly shaped tensor. A vocabulary of
/// the file larger than the config's is legal when `allow_extra_rows`; the config is then raised to it.
std::map<std::string, Tensor> load_llama_weights(const std::string& path, LlamaConfig& config,
                                                 const std::string& prefix = "",
                                                 bool allow_extra_rows = false);

/// The names and shapes a Llama of this configuration consists of.
std::map<std::string, std::vector<int64_t>> llama_tensor_shapes(const LlamaConfig& config);

/// export-formats.md section 1: SHA-256 over name, dtype, shape and the first and last 4 KiB of every stored
/// base tensor in (Hugging Face) name order.
std::string weights_fingerprint(const std::string& path);

}  // namespace ctxc
