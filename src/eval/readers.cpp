#include "eval/readers.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"

namespace ctxc {
namespace {

/// "runs/a" and "runs/a/checkpoints/step-00000010" -> "a".
std::string run_name(const std::string& checkpoint) {
  std::filesystem::path path = std::filesystem::path(checkpoint).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  if (path.parent_path().filename() == "checkpoints") path = path.parent_path().parent_path();
  return path.filename().empty() ? "checkpoint" : path.filename().string();
}

Tokens cut_context(const std::string& kind, const Tokens& context, int64_t budget) {
  if (kind == "none") return {};
  if (kind == "full") return context;
  const int64_t kept = std::clamp<int64_t>(budget, 0, static_cast<int64_t>(context.size()));
  return kind == "truncate_head" ? Tokens(context.begin(), context.begin() + kept)
                                 : Tokens(context.end() - kept, context.end());
}

}  // namespace

std::vector<MethodPlan> plan_methods(const std::vector<std::string>& methods, const std::string& checkpoint) {
  const std::vector<std::string> kinds = {"full", "none", "truncate_head", "truncate_tail", "checkpoint"};
  std::vector<MethodPlan> plans;
  std::set<std::string> names;
  for (const std::string& text : methods) {
    const size_t equals = text.find('=');
    MethodPlan plan{text.substr(0, equals), text.substr(0, equals), ""};
    CTXC_CHECK(std::find(kinds.begin(), kinds.end(), plan.kind) != kinds.end(), ErrorKind::kUsage,
               did_you_mean(plan.kind, kinds),
               "unknown evaluation method (found '{}', expected one of: {}, checkpoint=DIR)", plan.kind,
               join(kinds, ", "));
    CTXC_CHECK(equals == std::string::npos || plan.kind == "checkpoint", ErrorKind::kUsage,
               "write it without '='", "method '{}' takes no folder (found '{}')", plan.kind, text);
    if (plan.kind == "checkpoint") {
      plan.checkpoint = equals == std::string::npos ? checkpoint : text.substr(equals + 1);
      CTXC_CHECK(!plan.checkpoint.empty(), ErrorKind::kUsage, "add --checkpoint DIR or write checkpoint=DIR",
                 "method 'checkpoint' has no folder to load");
      if (equals != std::string::npos) plan.name = run_name(plan.checkpoint);
    }
    CTXC_CHECK(names.insert(plan.name).second, ErrorKind::kUsage,
               "name every method once; runs need different folder names",
               "two methods to evaluate have the name '{}'", plan.name);
    plans.push_back(std::move(plan));
  }
  CTXC_CHECK(!plans.empty(), ErrorKind::kUsage, "for example --methods full,none,checkpoint",
             "no method to evaluate");
  return plans;
}

std::vector<Shot> draw_shots(const DataSource& training, int64_t count, int64_t max_context) {
  std::vector<Shot> shots;
  const KeyedPermutation order(static_cast<uint64_t>(training.size()), 0, "eval.shots");
  for (uint64_t i = 0; i < order.size() && static_cast<int64_t>(shots.size()) < count; ++i) {
    Example example = training.example(static_cast<int64_t>(order[i]));
    const bool whole = static_cast<int64_t>(example.context.size()) == example.source_tokens;
    if (!whole || example.source_tokens > max_context || example.queries.empty()) continue;
    Query& query = example.queries.front();
    if (query.prompt.empty() || query.target.empty()) continue;
    shots.push_back({std::move(example.context), std::move(query.prompt), std::move(query.target)});
  }
  CTXC_CHECK(static_cast<int64_t>(shots.size()) == count, ErrorKind::kUsage,
             "lower prompt.shots or name another training set in eval.shots_from",
             "{}: too few solved examples with a context of at most {} tokens (found {}, expected {})",
             training.name(), max_context, shots.size(), count);
  return shots;
}

Reader make_reference(const MethodPlan& plan, const ReferenceSetup& setup) {
  Reader reader{plan.name, setup.backbone, nullptr, setup.prompt, {}, 0};
  const auto slots_for = setup.slots_for;
  const std::string kind = plan.kind;
  const auto cut = [kind, slots_for](const Tokens& context) {
    const int64_t budget = kind.starts_with("truncate") ? slots_for(static_cast<int64_t>(context.size())) : 0;
    return cut_context(kind, context, budget);
  };
  reader.cut = cut;
  Tokens head = setup.prompt->head_ids();
  const Tokens gap = setup.prompt->tokenizer().encode("\n\n");
  for (const Shot& shot : setup.shots) {
    for (const Tokens& part : {cut(shot.context), shot.prompt})
      head.insert(head.end(), part.begin(), part.end());
    // An end-of-text token inside the prompt would end the text for the base; a blank line separates examples
    // instead.
    for (TokenId token : shot.answer)
      if (token != setup.prompt->eos()) head.push_back(token);
    head.insert(head.end(), gap.begin(), gap.end());
  }
  CompressorSetup compressor;
  compressor.backbone = setup.backbone->config();
  compressor.head_ids.assign(head.begin(), head.end());
  reader.compressor = make_compressor(Yaml::parse("name: full", "reference"), compressor);
  return reader;
}

Reader make_checkpoint_reader(const MethodPlan& plan, const LoadedMethod& method) {
  return {plan.name,
          method.backbone,
          method.compressor,
          std::make_shared<const Prompt>(method.prompt, method.tokenizer),
          {},
          method.padded_length};
}

}  // namespace ctxc
