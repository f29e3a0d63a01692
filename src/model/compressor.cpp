#include "model/compressor.h"

#include "core/error.h"

namespace ctxc {

Registry<CompressorEntry>& compressor_registry() {
  static Registry<CompressorEntry> registry("compressor");
  return registry;
}

namespace {

/// The method that a section names.
const CompressorEntry& entry_of(const Yaml& section, const std::string& path) {
  CTXC_CHECK(section.is_null() || section.kind() == Yaml::Kind::kMap, ErrorKind::kUsage,
             fmt::format("write '{}: {{name: comprexit}}'", path.substr(path.rfind('.') + 1)),
             "{}: {}: wrong type (found {}, expected a map)", section.where(), path,
             section.kind() == Yaml::Kind::kList ? "a list" : "a value");
  const std::vector<std::string> names = compressor_registry().names();
  const Yaml* name = section.is_null() ? nullptr : section.find("name");
  CTXC_CHECK(name && name->kind() == Yaml::Kind::kScalar, ErrorKind::kUsage,
             "registered: " + join(names, ", "), "{}: {}.name is missing", section.where(), path);
  CTXC_CHECK(compressor_registry().contains(name->scalar()), ErrorKind::kUsage,
             did_you_mean(name->scalar(), names), "{}: unknown compressor (found '{}', expected one of: {})",
             name->where(), name->scalar(), join(names, ", "));
  return compressor_registry().at(name->scalar()).factory;
}

}  // namespace

Yaml resolve_compressor(const Yaml& section, const std::string& path) {
  const std::string keys = entry_of(section, path).resolve(section, path);
  return Yaml::parse(fmt::format("name: {}\n{}", section.find("name")->scalar(), keys), section.where());
}

std::shared_ptr<Compressor> make_compressor(const Yaml& section, const CompressorSetup& setup) {
  return entry_of(section, "compressor").create(section, setup);
}

}  // namespace ctxc
