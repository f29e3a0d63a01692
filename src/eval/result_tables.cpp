// results.json as tables for people.
#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "eval/results.h"

namespace ctxc {
namespace {

std::string cell(const OrderedJson& estimate, int digits) {
  return fmt::format("{:.{}f} [{:.{}f}, {:.{}f}]", estimate.value("value", 0.0), digits,
                     estimate.value("low", 0.0), digits, estimate.value("high", 0.0), digits);
}

const OrderedJson* find_entry(const OrderedJson& summary, const std::string& method, const std::string& set) {
  for (const auto& entry : summary.at("entries"))
    if (entry.value("method", "") == method && entry.value("set", "") == set) return &entry;
  return nullptr;
}

std::vector<std::vector<std::string>> score_table(const OrderedJson& summary, const char* metric,
                                                  int digits = 1) {
  std::vector<std::string> header = {"method"};
  for (const auto& set : summary.at("sets")) {
    int64_t questions = 0;
    for (const auto& entry : summary.at("entries"))
      if (entry.value("set", "") == set.get<std::string>()) questions = entry.value("n", int64_t{0});
    header.push_back(fmt::format("{} (n={})", set.get<std::string>(), questions));
  }
  header.push_back("mean");
  std::vector<std::vector<std::string>> rows = {header};
  for (const auto& method : summary.at("methods")) {
    std::vector<std::string> row = {method.get<std::string>()};
    for (const auto& set : summary.at("sets")) {
      const OrderedJson* entry = find_entry(summary, method.get<std::string>(), set.get<std::string>());
      row.push_back(entry ? cell(entry->at(metric), digits) : "—");
    }
    const auto macro = summary.at("macro").find(method.get<std::string>());
    row.push_back(
        macro == summary.at("macro").end() ? "—" : fmt::format("{:.{}f}", macro->value(metric, 0.0), digits));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string signed_cell(const OrderedJson& estimate, int digits = 1) {
  return fmt::format("{:+.{}f} [{:+.{}f}, {:+.{}f}]", estimate.value("value", 0.0), digits,
                     estimate.value("low", 0.0), digits, estimate.value("high", 0.0), digits);
}

}  // namespace

ResultTables result_tables(const OrderedJson& summary) {
  ResultTables tables;
  tables.f1 = score_table(summary, "f1");
  tables.exact_match = score_table(summary, "exact_match");
  const bool nll = summary.value("nll", false);
  if (nll) tables.nll = score_table(summary, "nll", 3);
  tables.paired = {{"set", "comparison", "F1 difference", "p", "EM difference"}};
  if (nll) tables.paired[0].insert(tables.paired[0].end(), {"NLL difference", "p"});
  for (const auto& row : summary.at("paired")) {
    tables.paired.push_back({row.value("set", ""),
                             row.value("method", "") + " minus " + row.value("minus", ""),
                             signed_cell(row.at("f1")), fmt::format("{:.3f}", row.value("f1_p", 1.0)),
                             signed_cell(row.at("exact_match"))});
    if (nll)
      tables.paired.back().insert(
          tables.paired.back().end(),
          {signed_cell(row.at("nll"), 3), fmt::format("{:.3f}", row.value("nll_p", 1.0))});
  }
  tables.costs = {{"method", "set", "context tokens", "vectors read", "ratio", "KV per context",
                   "cut contexts", "answers lost", "compress s", "prefill s", "decode s", "ms per question"}};
  for (const auto& entry : summary.at("entries")) {
    const OrderedJson& seconds = entry.at("seconds");
    const double ratio = entry.value("effective_ratio", 0.0);
    tables.costs.push_back({entry.value("method", ""), entry.value("set", ""),
                            fmt::format("{:.1f}", entry.value("context_tokens", 0.0)),
                            fmt::format("{:.1f}", entry.value("vectors_read", 0.0)),
                            ratio > 0 ? fmt::format("{:.2f}", ratio) : "—",
                            human_bytes(static_cast<uint64_t>(entry.value("kv_bytes_per_context", 0.0))),
                            fmt::format("{}", entry.value("truncated_contexts", int64_t{0})),
                            fmt::format("{}", entry.at("window").value("answers_lost", int64_t{0})),
                            fmt::format("{:.2f}", seconds.value("compress", 0.0)),
                            fmt::format("{:.2f}", seconds.value("prefill", 0.0)),
                            fmt::format("{:.2f}", seconds.value("decode", 0.0)),
                            fmt::format("{:.1f}", entry.value("ms_per_question", 0.0))});
  }
  return tables;
}

std::string results_markdown(const OrderedJson& summary) {
  const ResultTables tables = result_tables(summary);
  std::string text = "# Evaluation\n\n";
  for (const char* key : {"checkpoint", "model"})
    if (!summary.value(key, "").empty()) text += fmt::format("- {}: `{}`\n", key, summary.value(key, ""));
  text += fmt::format(
      "- context window: {} tokens, answers of at most {} tokens, {}\n",
      summary.value("context_tokens", int64_t{0}), summary.value("max_new_tokens", int64_t{0}),
      summary.value("shots", int64_t{0}) > 0
          ? fmt::format("{} solved examples in front of the references", summary.value("shots", int64_t{0}))
          : std::string("no solved examples"));
  if (!summary.value("complete", true))
    text += "- **incomplete**: the evaluation was interrupted; run it again to go on\n";
  text += "\n## F1, percent, with 95 % bootstrap intervals over passages\n\n" + format_table(tables.f1);
  text += "\n## Exact match, percent\n\n" + format_table(tables.exact_match);
  if (!tables.nll.empty())
    text += "\n## NLL of the first accepted answer, nats a token\n\n" + format_table(tables.nll);
  if (tables.paired.size() > 1)
    text += "\n## Paired differences, percentage points\n\n" + format_table(tables.paired);
  text += "\n## Cost\n\n" + format_table(tables.costs);
  return text;
}

}  // namespace ctxc
