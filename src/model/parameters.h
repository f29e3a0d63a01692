// Values from files into a module's parameters, and shards for writing: strict about names and shapes.
#pragma once
#include <torch/nn/module.h>

#include <map>
#include <string>
#include <vector>

#include "model/shapes.h"

namespace ctxc {

using TensorMap = std::map<std::string, Tensor>;

/// The entries below `prefix`, which is cut from their names.
TensorMap below(const TensorMap& tensors, const std::string& prefix);

/// Copies `values` into the module's parameters, converting to their dtype. One Error kInput ("origin: ...")
/// lists every missing, unexpected and wrongly shaped tensor; nothing is changed then.
void load_parameters(torch::nn::Module& module, const TensorMap& values, const std::string& origin);

/// The parameters by name, detached.
TensorMap parameters_of(const torch::nn::Module& module);

/// Writes model.safetensors, or, above `shard_bytes`, model-0000i-of-0000n.safetensors and their index, the
/// layout of Hugging Face.
void save_sharded(const std::string& folder, const TensorMap& tensors, uint64_t shard_bytes = 5'000'000'000);

}  // namespace ctxc
