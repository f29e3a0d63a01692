#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "eval/chart.h"
#include "eval/html.h"
#include "eval/results.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
constexpr size_t kSamples = 8, kExamplesPerSet = 6;

/// What a folder holds.
struct Folder {
  std::string path, name;
  Series loss, valid, exact;       ///< by step
  double seconds = 0, tokens = 0;  ///< of training
  int64_t last_step = -1;
  std::optional<OrderedJson> results;
  std::string results_folder, config;
  std::vector<Json> samples;                                  ///< of the last validation
  std::vector<std::pair<std::string, std::string>> pictures;  ///< file name, SVG
};

void read_log(const std::string& path, Folder& folder) {
  for_each_line(path, [&](std::string_view line, int64_t number) {
    if (trim(line).empty()) return;
    const Json row = parse_json(line, path, number);
    const double step = static_cast<double>(json_at<int64_t>(row, "step", path)) + 1;
    const auto take = [&](const char* key, Series& series) {
      if (!row.contains(key) || !row[key].is_number()) return;
      series.x.push_back(step);
      series.y.push_back(row[key].get<double>());
    };
    take("loss", folder.loss);
    take("valid_loss", folder.valid);
    take("sample_exact_match", folder.exact);
    folder.last_step = std::max(folder.last_step, static_cast<int64_t>(step));
    folder.seconds += json_or<double>(row, "seconds", 0, path);
    folder.tokens +=
        json_or<double>(row, "context_tokens", 0, path) + json_or<double>(row, "query_tokens", 0, path);
  });
}

void read_samples(const std::string& path, Folder& folder) {
  for_each_line(path, [&](std::string_view line, int64_t number) {
    if (trim(line).empty()) return;
    Json row = parse_json(line, path, number);
    const int64_t step = json_at<int64_t>(row, "step", path);
    if (!folder.samples.empty() && json_at<int64_t>(folder.samples.back(), "step", path) != step)
      folder.samples.clear();
    folder.samples.push_back(std::move(row));
  });
}

void read_pictures(const fs::path& path, Folder& folder) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path, ignored))
    if (entry.path().extension() == ".svg") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    std::string svg = read_file(file.string());
    // Only pictures of ours: drawings without scripts or links.
    const size_t start = svg.find("<svg");
    if (start == std::string::npos || svg.find("<script") != std::string::npos ||
        svg.find("href") != std::string::npos)
      continue;
    folder.pictures.emplace_back(file.filename().string(), svg.substr(start));
  }
}

Folder read_folder(const std::string& path) {
  Folder folder;
  folder.path = path;
  const fs::path clean = fs::absolute(path).lexically_normal();
  folder.name = (clean.filename().empty() ? clean.parent_path() : clean).filename().string();
  CTXC_CHECK(fs::is_directory(path), ErrorKind::kInput, "name a run folder", "{}: no such folder", path);
  const fs::path base(path);
  if (fs::exists(base / "log.jsonl")) read_log((base / "log.jsonl").string(), folder);
  if (fs::exists(base / "samples.jsonl")) read_samples((base / "samples.jsonl").string(), folder);
  if (fs::exists(base / "config.yaml")) folder.config = read_file((base / "config.yaml").string());
  for (const fs::path& candidate : {base, base / "eval"}) {
    const std::string file = (candidate / "results.json").string();
    if (folder.results || !fs::exists(file)) continue;
    const Json results = read_json_file(file);
    for (const char* key : {"methods", "sets", "entries", "macro", "paired"})
      CTXC_CHECK(results.is_object() && results.contains(key), ErrorKind::kInput,
                 "make it anew with ctxc-eval", "{}: not the results of an evaluation (key '{}' is missing)",
                 file, key);
    folder.results = OrderedJson(results);
    folder.results_folder = candidate.string();
  }
  read_pictures(base, folder);
  CTXC_CHECK(!folder.loss.x.empty() || folder.results || !folder.pictures.empty(), ErrorKind::kInput,
             "name a folder that ctxc-train or ctxc-eval wrote",
             "{}: nothing to report (no log.jsonl, no results.json)", path);
  return folder;
}

std::string loss_chart(const std::vector<const Folder*>& folders, const std::string& title) {
  LineChart chart;
  chart.title = title;
  chart.x_label = "step";
  chart.y_label = "loss, nats per token";
  int color = 0;
  const bool several = folders.size() > 1;
  for (const Folder* folder : folders) {
    const double span = std::max(1.0, static_cast<double>(folder->loss.x.size()) / 60);
    Series raw = folder->loss, smoothed = folder->loss, valid = folder->valid;
    raw.faint = true;
    raw.color = smoothed.color = color;
    smoothed.y = smooth(folder->loss.y, span);
    smoothed.name = several ? folder->name : span > 1 ? "training (smoothed)" : "training";
    if (!several) chart.series.push_back(raw);
    chart.series.push_back(smoothed);
    if (!valid.x.empty()) {
      valid.color = several ? color : color + 1;
      valid.dashed = several;
      valid.name = several ? folder->name + ", validation" : "validation";
      chart.series.push_back(valid);
    }
    ++color;
  }
  // A loss that falls by more than a factor of ten reads better on a log axis.
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const Series& series : chart.series)
    for (double y : series.y)
      if (y > 0) low = std::min(low, y), high = std::max(high, y);
  chart.log_y = high > 10 * low;
  return render_svg(chart);
}

/// Nothing where no questions were asked.
std::string score_chart(const OrderedJson& results) {
  IntervalChart chart;
  chart.title = "F1 with 95 % intervals";
  chart.x_label = "F1, percent";
  for (const auto& set : results.at("sets")) {
    IntervalGroup group{set.get<std::string>(), {}};
    for (const auto& entry : results.at("entries")) {
      if (entry.value("set", "") != group.name || !entry.contains("f1")) continue;
      const auto& f1 = entry.at("f1");
      group.estimates.push_back(
          {entry.value("method", ""), f1.value("value", 0.0), f1.value("low", 0.0), f1.value("high", 0.0)});
    }
    if (!group.estimates.empty()) chart.groups.push_back(std::move(group));
  }
  return chart.groups.empty() ? "" : render_svg(chart);
}

std::string shorten(const std::string& text, size_t limit = 160) {
  if (text.size() <= limit) return text;
  size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + " …";
}

std::string first_answers(const Json& answers) {
  std::vector<std::string> texts;
  for (const auto& answer : answers)
    if (answer.is_string() && texts.size() < 3) texts.push_back(answer.get<std::string>());
  return shorten(join(texts, " | "));
}

/// Questions of one set with every method's answer side by side.
std::vector<std::vector<std::string>> answer_table(const Folder& folder, const std::string& set) {
  std::vector<std::vector<std::string>> table;
  for (const auto& entry : folder.results->at("entries")) {
    if (entry.value("set", "") != set || !entry.contains("predictions")) continue;
    const std::string path = (fs::path(folder.results_folder) / entry.value("records", "")).string();
    if (!fs::is_regular_file(path)) continue;
    const bool first = table.empty();
    if (first) table.resize(1, {"question", "answers"});
    table[0].push_back(entry.value("method", ""));
    size_t row = 0;
    for_each_line(path, [&](std::string_view line, int64_t number) {
      if (row >= kExamplesPerSet) return;
      const Json record = parse_json(line, path, number);
      if (first)
        table.push_back({shorten(json_or<std::string>(record, "question", "", path)),
                         record.contains("answers") ? first_answers(record["answers"]) : ""});
      if (++row < table.size())
        table[row].push_back(shorten(json_or<std::string>(record, "prediction", "", path)));
    });
  }
  for (auto& row : table) row.resize(table[0].size());
  return table;
}

void add_training(HtmlPage& page, std::string& markdown, const Folder& folder) {
  page.heading(3, "Training");
  page.picture(loss_chart({&folder}, "Loss"));
  std::string line = fmt::format("{} steps", folder.last_step);
  if (!folder.loss.y.empty()) {
    const auto& y = folder.loss.y;
    line += fmt::format(", loss {:.3f} at the start, {:.3f} at the end (smoothed)", y.front(),
                        smooth(y, std::max(1.0, static_cast<double>(y.size()) / 60)).back());
  }
  if (!folder.valid.y.empty())
    line += fmt::format(", validation {:.3f} (best {:.3f})", folder.valid.y.back(),
                        *std::min_element(folder.valid.y.begin(), folder.valid.y.end()));
  if (folder.seconds > 0)
    line += fmt::format(", {} of logged steps, {} tokens/s", human_duration(folder.seconds),
                        human_count(folder.tokens / folder.seconds));
  page.paragraph(line + ".");
  markdown += line + ".\n\n";
  if (!folder.exact.x.empty()) {
    LineChart chart;
    chart.title = "Exact matches among the sample questions";
    chart.x_label = "step";
    chart.y_label = "share";
    chart.height = 220;
    chart.series = {folder.exact};
    chart.series[0].name = "samples";
    page.picture(render_svg(chart));
  }
  if (folder.samples.empty()) return;
  std::vector<std::vector<std::string>> table = {{"question", "answer given", "answers accepted"}};
  for (size_t i = 0; i < folder.samples.size() && i < kSamples; ++i) {
    const Json& sample = folder.samples[i];
    table.push_back({shorten(json_or<std::string>(sample, "question", "", folder.path)),
                     shorten(json_or<std::string>(sample, "prediction", "", folder.path)),
                     sample.contains("answers") ? first_answers(sample["answers"]) : ""});
  }
  page.paragraph("Answers at the last validation:");
  page.table(table);
}

void add_evaluation(HtmlPage& page, std::string& markdown, const Folder& folder) {
  const OrderedJson& results = *folder.results;
  page.heading(3, "Evaluation");
  if (!results.value("complete", true)) page.paragraph("Interrupted: some sets are missing.");
  const std::string chart = score_chart(results);
  if (!chart.empty()) page.picture(chart);
  for (const ResultTable& table : result_tables(results)) {
    page.paragraph(table.title + ":");
    page.table(table.rows);
    // One level deeper than in results.md, where the titles are headings.
    markdown += table.title + "\n\n" + format_table(table.rows) + "\n";
  }
  for (const auto& set : results.at("sets")) {
    const auto answers = answer_table(folder, set.get<std::string>());
    if (answers.size() < 2) continue;
    page.begin_details("Answers on " + set.get<std::string>());
    page.table(answers);
    page.end_details();
  }
}

/// "—" where no answers were decoded.
std::string percent(const OrderedJson& mean, const char* key) {
  return mean.contains(key) ? fmt::format("{:.1f}", mean.value(key, 0.0)) : "—";
}

/// Mean F1 of every method of every folder.
std::vector<std::vector<std::string>> comparison(const std::vector<Folder>& folders) {
  std::vector<std::vector<std::string>> table = {{"run", "method", "sets", "mean F1", "mean exact match"}};
  for (const Folder& folder : folders) {
    if (!folder.results) continue;
    for (const auto& [method, mean] : folder.results->at("macro").items())
      table.push_back({folder.name, method, fmt::format("{}", mean.value("sets", int64_t{0})),
                       percent(mean, "f1"), percent(mean, "exact_match")});
  }
  return table;
}

}  // namespace

Report make_report(const std::vector<std::string>& paths) {
  std::vector<Folder> folders;
  for (const std::string& path : paths) folders.push_back(read_folder(path));
  HtmlPage page(folders.size() == 1 ? "ctxc report: " + folders[0].name
                                    : fmt::format("ctxc report: {} runs", folders.size()));
  std::string markdown;
  if (folders.size() > 1) {
    std::vector<const Folder*> trained;
    for (const Folder& folder : folders)
      if (!folder.loss.x.empty()) trained.push_back(&folder);
    if (trained.size() > 1) page.picture(loss_chart(trained, "Loss of all runs"));
    const auto table = comparison(folders);
    if (table.size() > 1) {
      page.table(table);
      markdown += format_table(table) + "\n";
    }
  }
  for (const Folder& folder : folders) {
    page.heading(2, folder.name);
    markdown += fmt::format("## {}\n\n", folder.name);
    if (!folder.loss.x.empty()) add_training(page, markdown, folder);
    if (folder.results) add_evaluation(page, markdown, folder);
    for (const auto& [name, svg] : folder.pictures) {
      page.heading(3, name);
      page.picture(svg);
    }
    if (!folder.config.empty()) {
      page.begin_details("Configuration");
      page.preformatted(folder.config);
      page.end_details();
    }
  }
  return {page.str(), markdown};
}

}  // namespace ctxc
