// Presets of per-document methods (lcc.md section 5): defaults for keys of several sections at once. What a
// configuration says itself always wins.
#pragma once
#include "core/yaml.h"

namespace ctxc {

/// The document with the keys of `compressor.preset` filled in where it is silent; unchanged for methods
/// without presets.
Yaml with_preset(Yaml document);

}  // namespace ctxc
