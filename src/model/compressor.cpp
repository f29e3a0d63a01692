#include "model/compressor.h"

#include "core/error.h"

namespace ctxc {

Registry<CompressorEntry>& compressor_registry() {
  static Registry<CompressorEntry> registry("compressor");
  return registry;
}

std::shared_ptr<Compressor> make_compressor(const Yaml& section, const CompressorSetup& setup) {
  const Yaml* name = section.kind() == Yaml::Kind::kMap ? section.find("name") : nullptr;
  CTXC_CHECK(name && name->kind() == Yaml::Kind::kScalar, ErrorKind::kUsage,
             fmt::format("write one of: {}", join(compressor_registry().names(), ", ")),
             "{}: compressor.name is missing", section.where());
  try {
    return compressor_registry().at(name->scalar()).factory.create(section, setup);
  } catch (const Error& error) {
    // An unknown name is the registry's error; where it was written is ours to add.
    if (compressor_registry().contains(name->scalar())) throw;
    throw Error(error.kind(), fmt::format("{}: {}", name->where(), error.what()), error.hint());
  }
}

}  // namespace ctxc
