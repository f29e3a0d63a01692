#include "model/compressor.h"

#include "core/error.h"

namespace ctxc {

Registry<CompressorEntry>& compressor_registry() {
  static Registry<CompressorEntry> registry("compressor");
  return registry;
}

Yaml resolve_compressor(const Yaml& section, const std::string& path) {
  CTXC_CHECK(section.kind() == Yaml::Kind::kMap, ErrorKind::kUsage,
             fmt::format("write '{}: {{name: comprexit}}'", path.substr(path.rfind('.') + 1)),
             "{}: {}: wrong type (found {}, expected a map)", section.where(), path,
             section.kind() == Yaml::Kind::kList ? "a list" : "a value");
  const Yaml* name = section.find("name");
  CTXC_CHECK(name && name->kind() == Yaml::Kind::kScalar, ErrorKind::kUsage,
             "registered: " + join(compressor_registry().names(), ", "), "{}: {}.name is missing",
             section.where(), path);
  if (!compressor_registry().contains(name->scalar())) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: unknown compressor (found '{}', expected one of: {})", name->where(),
                            name->scalar(), join(compressor_registry().names(), ", ")),
                did_you_mean(name->scalar(), compressor_registry().names()));
  }
  const std::string keys = compressor_registry().at(name->scalar()).factory.resolve(section, path);
  return Yaml::parse(fmt::format("name: {}\n{}", name->scalar(), keys), section.where());
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
