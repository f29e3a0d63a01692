#include "eval/model_card.h"

#include <fmt/format.h>

#include "core/text.h"

namespace ctxc {
namespace {

std::string value_text(const OrderedJson& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.dump();
}

/// Rows "name | value" of the numbers that were measured when the memory was made.
void add_metrics(const OrderedJson& info, std::vector<std::vector<std::string>>& rows) {
  if (!info.contains("metrics") || !info["metrics"].is_object()) return;
  const std::pair<const char*, const char*> names[] = {
      {"heldout_kl", "KL to the full context on unseen queries"},
      {"probe_nll", "NLL of a token of the context's probes"},
      {"recon_token_acc", "greedy reconstruction, equal tokens"},
      {"steps", "steps"},
      {"seconds", "seconds"}};
  const OrderedJson& metrics = info["metrics"];
  for (const auto& [key, name] : names)
    if (metrics.contains(key)) rows.push_back({name, value_text(metrics[key])});
  if (metrics.contains("segments"))
    rows.push_back({"compiled in segments, numbers over all", fmt::format("{}", metrics["segments"].size())});
  if (metrics.contains("failed") && !metrics["failed"].empty())
    rows.push_back({"FAILED its gates", metrics["failed"].dump()});
}

}  // namespace

std::string model_card(const MemoryArtifact& memory, const std::string& target, const std::string& files,
                       const std::string& use) {
  const OrderedJson& info = memory.info;
  const OrderedJson model = info.value("model", OrderedJson::object());
  std::vector<std::vector<std::string>> rows = {{"what", "value"}};
  rows.push_back({"base", value_text(model.value("name_or_path", OrderedJson("")))});
  rows.push_back({"weights fingerprint", value_text(model.value("weights_fingerprint", OrderedJson("")))});
  rows.push_back({"method", value_text(info.value("method", OrderedJson("")))});
  rows.push_back({"kind", memory.kind});
  rows.push_back({"rows", fmt::format("{} ({} header, {} slots)", memory.rows(), memory.header(),
                                      memory.rows() - memory.header())});
  if (info.contains("context"))
    rows.push_back({"context tokens", value_text(info["context"].value("n_tokens", OrderedJson(0)))});
  if (info.contains("ratio")) rows.push_back({"ratio", value_text(info["ratio"])});
  add_metrics(info, rows);
  std::string text = fmt::format(
      "# A compressed context for {}\n\nMade by ctxc (`ctxc-export --to {}`). The base named below, "
      "unchanged, "
      "reads these rows instead of a text; on another base or tokenizer they mean nothing.\n\n{}\n",
      value_text(model.value("architecture", OrderedJson(""))), target, format_table(rows));
  text += fmt::format("Files: {}\n\n```{}\n```\n\n", files, use);
  const std::string resume = info.value("resume_text", "");
  text += fmt::format("The query goes on at position {}, without a BOS of its own{}.\n", memory.rows(),
                      resume.empty() ? "" : fmt::format(", and begins with {}", OrderedJson(resume).dump()));
  return text;
}

}  // namespace ctxc
