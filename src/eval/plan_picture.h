// A picture of how a text becomes slots: per window the share of every slot that comes from every token
// (transport plan), above it the weight every token gives to each hidden state (depth-wise transmission),
// below it the tokens.
#pragma once
#include <string>
#include <vector>

namespace ctxc {

struct PlanWindow {
  std::vector<std::string> tokens;           ///< as people read them
  std::vector<std::vector<double>> weights;  ///< [hidden state][token], columns sum to 1; may be empty
  std::vector<std::vector<double>> shares;   ///< [slot][token], rows sum to 1
  int64_t first_slot = 0;                    ///< number of the first slot in the whole text
};

/// One SVG, windows below each other.
std::string render_plan(const std::vector<PlanWindow>& windows, const std::string& title);

}  // namespace ctxc
