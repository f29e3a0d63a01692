// Which state of a compile is kept, and when it stops (lcc.md section 4). KL_q alone would choose against
// memory (random queries mention no context), NLL_m alone against everything else, so:
//   chosen: the smallest NLL_m among states with KL_q <= 1.1 min KL_q + 0.01, the minimum over all states
//   seen
// The bound only falls, so a state beyond it never comes back and is dropped, as are states that another one
// beats in both numbers.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/memory.h"

namespace ctxc {

struct CompileNumbers {
  double kl_q = 0;   ///< mean KL to the teacher on held-out random queries
  double nll_m = 0;  ///< mean negative log-likelihood of a token of the probes
};

struct CompileState {
  int64_t step = 0;
  double lambda = 1;
  CompileNumbers numbers;
  Memory memory;  ///< without gradients
  /// What was trained, by group and name; only where it is asked for.
  std::map<std::string, std::map<std::string, Tensor>> parameters = {};
};

class StateSelection {
 public:
  void offer(CompileState state);
  const CompileState& chosen() const;  ///< there must have been an offer
  double bound() const { return 1.1 * lowest_kl_ + 0.01; }
  size_t kept() const { return states_.size(); }

 private:
  std::vector<CompileState> states_;
  double lowest_kl_ = 1e300;
};

/// Ends a compile when neither number has become better by 1 % in `patience` checks (0 = never).
class ProgressWatch {
 public:
  explicit ProgressWatch(int64_t patience) : patience_(patience) {}
  /// True: stop.
  bool check(const CompileNumbers& numbers);

 private:
  int64_t patience_, idle_ = 0;
  CompileNumbers best_{1e300, 1e300};
};

}  // namespace ctxc
