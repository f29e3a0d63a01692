// Calling operators of the `ctxc` library by name. Each is registered where its CPU reference is (this
// folder); the same operators for CUDA come from the plugin (cuda_ext), which the dispatcher finds by the
// tensors' device.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include "model/shapes.h"

namespace ctxc {

/// The operator `ctxc::name` with this signature; look it up once (static) and call() it.
template <class Signature>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace ctxc
