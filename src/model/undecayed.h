// Matrices that weight decay must leave alone. Decay is of matrices because they are maps, which it keeps
// from growing; vectors that a method starts to read from (a state, a buffer) have two dimensions as well,
// but are values: decay would pull them to zero, and a normalised state to where its norm's gradient
// explodes.
#pragma once
#include <string>
#include <vector>

namespace ctxc {

/// A method that has some derives from this beside Compressor.
class NamesUndecayed {
 public:
  virtual ~NamesUndecayed() = default;
  /// Names among the method's parameters.
  virtual std::vector<std::string> undecayed_parameters() const = 0;
};

}  // namespace ctxc
