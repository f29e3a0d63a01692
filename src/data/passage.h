// A context and its questions as text: what every question-answering format is read into before it becomes
// tokens.
#pragma once
#include <string>
#include <vector>

namespace ctxc {

struct Question {
  std::string id, text;
  std::vector<std::string> answers;  ///< every accepted answer; the first one is trained on
};

struct Passage {
  std::string id, context;
  std::vector<Question> questions;
};

}  // namespace ctxc
