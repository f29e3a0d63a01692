#include "core/error.h"

namespace ctxc {

std::string render(const Error& error) {
  std::string text = fmt::format("error: {}\n", error.what());
  if (!error.hint().empty()) text += fmt::format("hint: {}\n", error.hint());
  return text;
}

}  // namespace ctxc
