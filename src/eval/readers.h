// Which methods an evaluation compares, and how each becomes a Reader.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "eval/evaluator.h"
#include "model/artifact.h"

namespace ctxc {

/// One entry of eval.methods.
struct MethodPlan {
  std::string kind;  ///< full | none | truncate_head | truncate_tail | checkpoint
  std::string name;  ///< in tables and files, unique: the kind, or the run's name for further checkpoints
  std::string checkpoint;  ///< folder, for kind checkpoint
};
/// `checkpoint` is what a plain "checkpoint" means (may be empty). Error kUsage for unknown methods, a
/// checkpoint nobody named, and the same method twice.
std::vector<MethodPlan> plan_methods(const std::vector<std::string>& methods, const std::string& checkpoint);

/// A solved example, shown to untrained references in front of the question.
struct Shot {
  Tokens context, prompt, answer;
};
/// `count` examples of a training set by a fixed draw, one question each, with contexts of at most
/// `max_context` tokens. Error kUsage if the set has too few.
std::vector<Shot> draw_shots(const DataSource& training, int64_t count, int64_t max_context);

/// What an untrained reference is built from.
struct ReferenceSetup {
  std::shared_ptr<Backbone> backbone;
  std::shared_ptr<const Prompt> prompt;
  std::function<int64_t(int64_t)>
      slots_for;            ///< budget of truncation: slots for a context of this many tokens
  std::vector<Shot> shots;  ///< their contexts are cut like the question's own
};
Reader make_reference(const MethodPlan& plan, const ReferenceSetup& setup);
Reader make_checkpoint_reader(const MethodPlan& plan, const LoadedMethod& method);

}  // namespace ctxc
