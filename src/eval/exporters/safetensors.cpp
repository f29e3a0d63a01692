// safetensors: everything that was trained, in one file; the resolved configuration and state lie in the
// metadata (key `ctxc`, JSON), so that the file alone says what it is.
#include "core/error.h"
#include "core/json.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "model/artifact.h"
#include "model/parameters.h"
#include "model/weights.h"

namespace ctxc {
namespace {

at::ScalarType type_of(const std::string& dtype, const Tensor& tensor) {
  if (dtype.empty() || !tensor.is_floating_point()) return tensor.scalar_type();
  return float_type(dtype);
}

void write_safetensors_export(const ExportRequest& request) {
  const LoadedMethod method = load_method(request.in, request.model);
  std::vector<std::pair<std::string, Tensor>> tensors;
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    tensors.emplace_back(name, tensor.detach().to(at::kCPU, type_of(request.dtype, tensor)).contiguous());
  };
  for (const auto& [name, tensor] : parameters_of(*method.compressor)) add("compressor." + name, tensor);
  // A run that trained its base has no path to point at: the weights are part of what was trained.
  if (method.backbone->path().empty())
    for (const auto& [name, tensor] : method.backbone->weights()) add("backbone." + name, tensor);
  CTXC_CHECK(!tensors.empty(), ErrorKind::kInput, "", "{}: the method has no trained tensors", request.in);
  OrderedJson info = {{"format_version", 1},
                      {"base", method.backbone->path()},
                      {"tokenizer_sha256", method.tokenizer.fingerprint()}};
  info["compressor"] = method.compressor->config_yaml();
  info["state"] = method.state;
  save_tensors(request.out, tensors, {{"format", "pt"}, {"ctxc", info.dump()}});
}

CTXC_REGISTER_EXPORTER(safetensors, "safetensors", false, write_safetensors_export,
                       "the trained tensors in one file, configuration in its metadata");

}  // namespace
}  // namespace ctxc
