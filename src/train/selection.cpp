#include "train/selection.h"

#include <algorithm>

#include "core/error.h"

namespace ctxc {
namespace {

constexpr double kProgress = 0.99;

bool beats(const CompileNumbers& a, const CompileNumbers& b) {
  return a.kl_q <= b.kl_q && a.nll_m <= b.nll_m;
}

}  // namespace

void StateSelection::offer(CompileState state) {
  lowest_kl_ = std::min(lowest_kl_, state.numbers.kl_q);
  std::erase_if(states_, [&](const CompileState& kept) {
    return kept.numbers.kl_q > bound() || beats(state.numbers, kept.numbers);
  });
  const bool beaten = std::any_of(states_.begin(), states_.end(), [&](const CompileState& kept) {
    return beats(kept.numbers, state.numbers);
  });
  if (!beaten && state.numbers.kl_q <= bound()) states_.push_back(std::move(state));
}

const CompileState& StateSelection::chosen() const {
  CTXC_CHECK(!states_.empty(), ErrorKind::kInternal, "", "no state of the compile was measured");
  return *std::min_element(states_.begin(), states_.end(), [](const CompileState& a, const CompileState& b) {
    return a.numbers.nll_m < b.numbers.nll_m;
  });
}

bool ProgressWatch::check(const CompileNumbers& numbers) {
  bool better = false;
  for (const auto member : {&CompileNumbers::kl_q, &CompileNumbers::nll_m}) {
    if (numbers.*member >= kProgress * best_.*member) continue;
    best_.*member = numbers.*member;
    better = true;
  }
  idle_ = better ? 0 : idle_ + 1;
  return patience_ > 0 && idle_ >= patience_;
}

}  // namespace ctxc
