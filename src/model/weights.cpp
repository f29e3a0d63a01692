#include "model/weights.h"

#include <array>
#include <cstring>

#include "core/error.h"

namespace ctxc {
namespace {

constexpr std::array<std::pair<DType, at::ScalarType>, 10> kTypes = {{{DType::kF64, at::kDouble},
                                                                      {DType::kF32, at::kFloat},
                                                                      {DType::kF16, at::kHalf},
                                                                      {DType::kBF16, at::kBFloat16},
                                                                      {DType::kI64, at::kLong},
                                                                      {DType::kI32, at::kInt},
                                                                      {DType::kI16, at::kShort},
                                                                      {DType::kI8, at::kChar},
                                                                      {DType::kU8, at::kByte},
                                                                      {DType::kBool, at::kBool}}};

}  // namespace

at::ScalarType scalar_type(DType dtype) {
  return kTypes[static_cast<size_t>(dtype)].second;
}

DType dtype_of(at::ScalarType type) {
  for (const auto& [dtype, scalar] : kTypes)
    if (scalar == type) return dtype;
  throw Error(ErrorKind::kInternal, fmt::format("tensors of type {} cannot be stored", at::toString(type)));
}

Tensor tensor_from_view(const TensorView& view, std::shared_ptr<const void> owner) {
  const auto options = at::TensorOptions(scalar_type(view.dtype));
  const bool aligned = reinterpret_cast<uintptr_t>(view.bytes.data()) % size_of(view.dtype) == 0;
  if (!aligned || view.bytes.empty()) {
    Tensor copy = at::empty(view.shape, options);
    if (!view.bytes.empty()) std::memcpy(copy.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
    return copy;
  }
  // The mapping is read-only: frozen weights are only ever read.
  void* data = const_cast<std::byte*>(view.bytes.data());
  return at::from_blob(
      data, view.shape, [owner = std::move(owner)](void*) {}, options);
}

TensorView view_of(const Tensor& tensor) {
  CTXC_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(), ErrorKind::kInternal, "",
             "view_of: the tensor is not contiguous CPU memory");
  return {.dtype = dtype_of(tensor.scalar_type()),
          .shape = tensor.sizes().vec(),
          .bytes = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

std::map<std::string, Tensor> load_tensors(const std::string& path) {
  const SafetensorsSet set(path);
  std::map<std::string, Tensor> tensors;
  for (const SafetensorsFile& file : set.files()) {
    const auto owner = std::make_shared<const MappedFile>(file.file());
    for (const auto& [name, view] : file.tensors()) tensors.emplace(name, tensor_from_view(view, owner));
  }
  return tensors;
}

void save_tensors(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<std::pair<std::string, TensorView>> views;
  for (const auto& [name, tensor] : tensors) views.emplace_back(name, view_of(tensor));
  write_safetensors(path, views, metadata);
}

}  // namespace ctxc
