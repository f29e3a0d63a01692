// Numbers that must not be rounded to bfloat16 under autocast: costs, masses, levels, determinants.
#pragma once
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace ctxc {

/// Autocast is off while the object lives.
struct FullPrecision {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};

}  // namespace ctxc
