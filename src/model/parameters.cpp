#include "model/parameters.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "model/weights.h"

namespace ctxc {
namespace {

std::string shape_text(const Tensor& tensor) {
  std::vector<std::string> sizes;
  for (int64_t size : tensor.sizes()) sizes.push_back(std::to_string(size));
  return "[" + join(sizes, ", ") + "]";
}

}  // namespace

TensorMap below(const TensorMap& tensors, const std::string& prefix) {
  TensorMap result;
  for (const auto& [name, tensor] : tensors)
    if (name.starts_with(prefix)) result.emplace(name.substr(prefix.size()), tensor);
  return result;
}

void load_parameters(torch::nn::Module& module, const TensorMap& values, const std::string& origin) {
  const auto parameters = module.named_parameters();
  std::vector<std::string> problems;
  for (const auto& entry : parameters) {
    const auto found = values.find(entry.key());
    if (found == values.end())
      problems.push_back(fmt::format("{} is missing (expected {})", entry.key(), shape_text(entry.value())));
    else if (found->second.sizes() != entry.value().sizes())
      problems.push_back(fmt::format("{} has another shape (found {}, expected {})", entry.key(),
                                     shape_text(found->second), shape_text(entry.value())));
  }
  for (const auto& [name, tensor] : values)
    if (!parameters.contains(name))
      problems.push_back(fmt::format("{} {} is unexpected", name, shape_text(tensor)));
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, "the tensors belong to another configuration of the method",
             "{}: the tensors do not fit: {}", origin, join(problems, "; "));
  const at::NoGradGuard no_gradient;
  for (const auto& entry : parameters) {
    Tensor parameter = entry.value();
    parameter.copy_(values.at(entry.key()));
  }
}

TensorMap parameters_of(const torch::nn::Module& module) {
  TensorMap result;
  for (const auto& entry : module.named_parameters()) result.emplace(entry.key(), entry.value().detach());
  return result;
}

void save_sharded(const std::string& folder, const TensorMap& tensors, uint64_t shard_bytes) {
  using Shard = std::vector<std::pair<std::string, Tensor>>;
  std::vector<Shard> shards(1);
  uint64_t total = 0, filled = 0;
  for (const auto& [name, tensor] : tensors) {
    if (filled > 0 && filled + tensor.nbytes() > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().emplace_back(name, tensor.to(at::kCPU).contiguous());
    filled += tensor.nbytes();
    total += tensor.nbytes();
  }
  if (shards.size() == 1) return save_tensors(folder + "/model.safetensors", shards[0], {{"format", "pt"}});
  OrderedJson index{{"metadata", {{"total_size", total}}}, {"weight_map", OrderedJson::object()}};
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    save_tensors(folder + "/" + name, shards[i], {{"format", "pt"}});
    for (const auto& [tensor_name, tensor] : shards[i]) index["weight_map"][tensor_name] = name;
  }
  write_file_atomic(folder + "/model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace ctxc
