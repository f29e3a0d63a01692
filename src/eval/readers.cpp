#include "eval/readers.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "eval/bm25.h"

namespace ctxc {
namespace {

/// "runs/a" and "runs/a/checkpoints/step-00000010" -> "a".
std::string run_name(const std::string& checkpoint) {
  std::filesystem::path path = std::filesystem::path(checkpoint).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  if (path.parent_path().filename() == "checkpoints") path = path.parent_path().parent_path();
  return path.filename().empty() ? "checkpoint" : path.filename().string();
}

/// What a plan leaves of a context for a question (its text; read by bm25 alone).
Tokens cut_context(const MethodPlan& plan, const std::function<int64_t(int64_t)>& slots_for,
                   const Tokenizer& tokenizer, const Tokens& context, const std::string& question) {
  if (plan.kind == "none") return {};
  if (!plan.cuts()) return context;
  const int64_t all = static_cast<int64_t>(context.size()),
                kept = std::clamp<int64_t>(slots_for(all), 0, all);
  if (plan.kind == "bm25") return best_sentences(tokenizer, context, question, kept);
  return plan.kind == "truncate_head" ? Tokens(context.begin(), context.begin() + kept)
                                      : Tokens(context.end() - kept, context.end());
}

void cut_for(Reader& reader, const MethodPlan& plan, const std::function<int64_t(int64_t)>& slots_for) {
  reader.cut_by_query = plan.kind == "bm25";
  reader.cut = [plan, slots_for, tokenizer = reader.prompt->tokenizer()](const Tokens& context,
                                                                         const Query& query) {
    return cut_context(plan, slots_for, tokenizer, context, query.question);
  };
}

}  // namespace

std::vector<MethodPlan> plan_methods(const std::vector<std::string>& methods, const std::string& checkpoint) {
  const std::vector<std::string> kinds = {"full", "none",       "truncate_head", "truncate_tail",
                                          "bm25", "checkpoint", "foreign"};
  std::vector<MethodPlan> plans;
  std::set<std::string> names;
  for (const std::string& text : methods) {
    const size_t equals = text.find('=');
    MethodPlan plan{text.substr(0, equals), text.substr(0, equals), ""};
    CTXC_CHECK(
        std::find(kinds.begin(), kinds.end(), plan.kind) != kinds.end(), ErrorKind::kUsage,
        did_you_mean(plan.kind, kinds),
        "unknown evaluation method (found '{}', expected one of: {}, or one of the last five with =DIR)",
        plan.kind, join(kinds, ", "));
    const bool given = equals != std::string::npos;
    CTXC_CHECK(!given || plan.cuts() || plan.compresses(), ErrorKind::kUsage, "write it without '='",
               "method '{}' takes no folder (found '{}')", plan.kind, text);
    if (given) plan.checkpoint = text.substr(equals + 1);
    if (plan.compresses() && !given) plan.checkpoint = checkpoint;
    CTXC_CHECK(!plan.checkpoint.empty() || (!plan.compresses() && !given), ErrorKind::kUsage,
               plan.compresses() ? "add --checkpoint DIR or write " + plan.kind + "=DIR"
                                 : "write " + plan.kind + "=DIR",
               "method '{}' has no folder to load", plan.kind);
    if (given) plan.name = (plan.kind == "checkpoint" ? "" : plan.kind + "-") + run_name(plan.checkpoint);
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
    shots.push_back({std::move(example.context), std::move(query)});
  }
  CTXC_CHECK(static_cast<int64_t>(shots.size()) == count, ErrorKind::kUsage,
             "lower prompt.shots or name another training set in eval.shots_from",
             "{}: too few solved examples with a context of at most {} tokens (found {}, expected {})",
             training.name(), max_context, shots.size(), count);
  return shots;
}

Reader make_reference(const MethodPlan& plan, const ReferenceSetup& setup) {
  Reader reader{.name = plan.name,
                .backbone = setup.backbone,
                .compressor = nullptr,
                .prompt = setup.prompt,
                .cut = {},
                .cut_by_query = false,
                .foreign = false,
                .padded_length = 0,
                .hidden_cache = nullptr};
  cut_for(reader, plan, setup.slots_for);
  Tokens head = setup.prompt->head_ids();
  const Tokens gap = setup.prompt->tokenizer().encode("\n\n");
  for (const Shot& shot : setup.shots) {
    for (const Tokens& part : {reader.cut(shot.context, shot.query), shot.query.prompt})
      head.insert(head.end(), part.begin(), part.end());
    // An end-of-text token inside the prompt would end the text for the base; a blank line separates examples
    // instead.
    for (TokenId token : shot.query.target)
      if (token != setup.prompt->eos()) head.push_back(token);
    head.insert(head.end(), gap.begin(), gap.end());
  }
  CompressorSetup compressor;
  compressor.backbone = setup.backbone->config();
  compressor.head_ids.assign(head.begin(), head.end());
  reader.compressor = make_compressor(Yaml::parse("name: full", "reference"), compressor);
  return reader;
}

Reader make_checkpoint_reader(const MethodPlan& plan, const LoadedMethod& method,
                              const std::function<int64_t(int64_t)>& slots_for) {
  Reader reader{.name = plan.name,
                .backbone = method.backbone,
                .compressor = method.compressor,
                .prompt = std::make_shared<const Prompt>(method.prompt, method.tokenizer),
                .cut = {},
                .cut_by_query = false,
                .foreign = plan.kind == "foreign",
                .padded_length = method.padded_length,
                .hidden_cache = nullptr};
  if (plan.cuts()) cut_for(reader, plan, slots_for);
  return reader;
}

}  // namespace ctxc
