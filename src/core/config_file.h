// A configuration file and those it extends.
#pragma once
#include <string>

#include "core/yaml.h"

namespace ctxc {

/// The document in `path`, over the one that its key `extends` names (a file beside it, by relative path),
/// over the one that extends, and so on; `extends` itself is gone. Error kUsage if a file extends itself,
/// directly or not, or if `extends` is no text.
Yaml load_config_file(const std::string& path);

}  // namespace ctxc
