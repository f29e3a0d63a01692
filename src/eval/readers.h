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
  std::string kind;  ///< full | none | truncate_head | truncate_tail | bm25 | checkpoint | foreign
  /// In tables and files, unique: the kind, the run's name for further checkpoints, or kind-run for cut
  /// references that a checkpoint reads and for foreign memories.
  std::string name;
  std::string checkpoint;  ///< folder: of kind checkpoint or foreign, or what reads the part a cut leaves
                           ///< (else the base does)
  /// A checkpoint's memory is read, of the passage or (foreign) of another one.
  bool compresses() const { return kind == "checkpoint" || kind == "foreign"; }
  bool cuts() const { return kind.starts_with("truncate") || kind == "bm25"; }
};
/// `checkpoint` is what a plain "checkpoint" means (may be empty). Error kUsage for unknown methods, a
/// checkpoint nobody named, and the same method twice.
std::vector<MethodPlan> plan_methods(const std::vector<std::string>& methods, const std::string& checkpoint);

/// A solved example, shown to untrained references in front of the question.
struct Shot {
  Tokens context;
  Query query;  ///< with its target, the answer
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
/// The base reads the context or what a cut leaves of it.
Reader make_reference(const MethodPlan& plan, const ReferenceSetup& setup);
/// A checkpoint reads the context; of a plan that cuts, as many of its tokens as `slots_for` says; of kind
/// foreign, another passage of the set.
Reader make_checkpoint_reader(const MethodPlan& plan, const LoadedMethod& method,
                              const std::function<int64_t(int64_t)>& slots_for = {});

}  // namespace ctxc
