// results.json as tables for people.
#include <fmt/format.h>

#include <algorithm>
#include <functional>

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

/// A set with its number of questions or texts; 0 where nothing was measured yet.
struct SetSize {
  std::string name;
  int64_t count = 0;
};
std::vector<SetSize> sets_of(const OrderedJson& summary, bool text) {
  std::vector<SetSize> sets;
  for (const auto& set : summary.at("sets")) {
    const std::string name = set.get<std::string>();
    SetSize size{name, 0};
    bool is_text = false;
    for (const auto& entry : summary.at("entries")) {
      if (entry.value("set", "") != name) continue;
      size.count = entry.value("n", int64_t{0});
      is_text = entry.contains("perplexity");
    }
    if (is_text == text) sets.push_back(size);
  }
  return sets;
}

using Rows = std::vector<std::vector<std::string>>;
using Cells = std::vector<std::string>;

/// A row a method: what `cells` says of its entry in each set, a null pointer where it has none. Nothing
/// without sets.
Rows method_rows(const OrderedJson& summary, const std::vector<SetSize>& sets, Cells header,
                 const std::function<Cells(const OrderedJson*)>& cells) {
  if (sets.empty()) return {};
  header.insert(header.begin(), "method");
  Rows rows = {std::move(header)};
  for (const auto& method : summary.at("methods")) {
    Cells row = {method.get<std::string>()};
    for (const SetSize& set : sets)
      for (std::string& text : cells(find_entry(summary, row[0], set.name))) row.push_back(std::move(text));
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Perplexity is the exponential of the NLL in the same row.
Rows text_table(const OrderedJson& summary) {
  const std::vector<SetSize> sets = sets_of(summary, true);
  Cells header;
  for (const SetSize& set : sets) {
    header.push_back(fmt::format("{} (n={}): NLL", set.name, set.count));
    header.push_back("perplexity");
  }
  return method_rows(summary, sets, header, [](const OrderedJson* entry) {
    if (!entry) return Cells{"—", "—"};
    return Cells{cell(entry->at("nll"), 3), fmt::format("{:.2f}", entry->value("perplexity", 0.0))};
  });
}

Rows score_table(const OrderedJson& summary, const char* metric, int digits = 1) {
  const std::vector<SetSize> sets = sets_of(summary, false);
  Cells header;
  for (const SetSize& set : sets) header.push_back(fmt::format("{} (n={})", set.name, set.count));
  Rows rows = method_rows(summary, sets, header, [&](const OrderedJson* entry) {
    return Cells{entry ? cell(entry->at(metric), digits) : "—"};
  });
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto macro = summary.at("macro").find(rows[i][0]);
    rows[i].push_back(i == 0 ? "mean"
                      : macro == summary.at("macro").end()
                          ? "—"
                          : fmt::format("{:.{}f}", macro->value(metric, 0.0), digits));
  }
  return rows;
}

/// "—" where the row has no such estimate.
std::string signed_cell(const OrderedJson& row, const char* key, int digits = 1) {
  if (!row.contains(key)) return "—";
  const OrderedJson& estimate = row.at(key);
  return fmt::format("{:+.{}f} [{:+.{}f}, {:+.{}f}]", estimate.value("value", 0.0), digits,
                     estimate.value("low", 0.0), digits, estimate.value("high", 0.0), digits);
}

Rows paired_table(const OrderedJson& summary, bool answers, bool nll) {
  const auto p_value = [](const OrderedJson& row, const char* key) {
    return row.contains(key) ? fmt::format("{:.3f}", row.value(key, 1.0)) : "—";
  };
  Rows rows = {{"set", "comparison"}};
  if (answers) rows[0].insert(rows[0].end(), {"F1 difference", "p", "EM difference"});
  if (nll) rows[0].insert(rows[0].end(), {"NLL difference", "p"});
  for (const auto& row : summary.at("paired")) {
    rows.push_back({row.value("set", ""), row.value("method", "") + " minus " + row.value("minus", "")});
    if (answers)
      rows.back().insert(rows.back().end(),
                         {signed_cell(row, "f1"), p_value(row, "f1_p"), signed_cell(row, "exact_match")});
    if (nll) rows.back().insert(rows.back().end(), {signed_cell(row, "nll", 3), p_value(row, "nll_p")});
  }
  return rows;
}

Rows cost_table(const OrderedJson& summary) {
  Rows rows = {{"method", "set", "context tokens", "vectors read", "ratio", "KV per context", "cut contexts",
                "answers lost", "compress s", "prefill s", "decode s", "ms per question"}};
  for (const auto& entry : summary.at("entries")) {
    const OrderedJson& seconds = entry.at("seconds");
    const double ratio = entry.value("effective_ratio", 0.0);
    rows.push_back({entry.value("method", ""), entry.value("set", ""),
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
  return rows;
}

}  // namespace

std::vector<ResultTable> result_tables(const OrderedJson& summary) {
  const Rows text = text_table(summary);
  const bool answers = summary.value("answers", true), answers_nll = summary.value("nll", false),
             any_nll = answers_nll || !text.empty();
  std::vector<ResultTable> tables = {
      {"F1, percent, with 95 % bootstrap intervals over passages",
       answers ? score_table(summary, "f1") : Rows()},
      {"Exact match, percent", answers ? score_table(summary, "exact_match") : Rows()},
      {"NLL of the first accepted answer, nats a token",
       answers_nll ? score_table(summary, "nll", 3) : Rows()},
      {"Plain text: NLL of what follows the context, nats a token", text},
      {!answers  ? "Paired differences, nats a token"
       : any_nll ? "Paired differences, percentage points (NLL: nats a token)"
                 : "Paired differences, percentage points",
       paired_table(summary, answers, any_nll)},
      {"Cost", cost_table(summary)}};
  std::erase_if(tables, [](const ResultTable& table) { return table.rows.size() < 2; });
  return tables;
}

std::string results_markdown(const OrderedJson& summary) {
  std::string text = "# Evaluation\n\n";
  for (const char* key : {"checkpoint", "model"})
    if (!summary.value(key, "").empty()) text += fmt::format("- {}: `{}`\n", key, summary.value(key, ""));
  text += fmt::format(
      "- context window: {} tokens, {}, {}\n", summary.value("context_tokens", int64_t{0}),
      summary.value("answers", true)
          ? fmt::format("answers of at most {} tokens", summary.value("max_new_tokens", int64_t{0}))
          : std::string("no answers decoded"),
      summary.value("shots", int64_t{0}) > 0
          ? fmt::format("{} solved examples in front of the references", summary.value("shots", int64_t{0}))
          : std::string("no solved examples"));
  if (!summary.value("complete", true))
    text += "- **incomplete**: the evaluation was interrupted; run it again to go on\n";
  for (const ResultTable& table : result_tables(summary))
    text += fmt::format("\n## {}\n\n", table.title) + format_table(table.rows);
  return text;
}

}  // namespace ctxc
