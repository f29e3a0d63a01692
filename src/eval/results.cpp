#include "eval/results.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

OrderedJson estimate(double value, Interval interval) {
  return {{"value", value}, {"low", interval.low}, {"high", interval.high}};
}

std::string records_text(const SetResult& result, bool nll) {
  std::string text;
  for (const QuestionRecord& record : result.records) {
    OrderedJson line = {{"qid", record.qid}};
    if (!result.continued) line.update({{"question", record.question}, {"answers", record.answers}});
    if (result.answered())
      line.update({{"prediction", record.prediction},
                   {"exact_match", record.score.exact_match},
                   {"f1", record.score.f1}});
    line.update({{"context", record.context}, {"context_tokens", record.context_tokens}});
    if (!result.continued) line["source_tokens"] = record.source_tokens;
    line["vectors"] = record.vectors;
    if (nll || !result.answered()) line["nll"] = record.score.nll;
    text += line.dump() + "\n";
  }
  return text;
}

OrderedJson entry_json(const SetResult& result, const ScoreSummary& score, const SourceStats& stats,
                       bool nll) {
  const double questions = static_cast<double>(std::max<size_t>(1, result.records.size()));
  const Timing& seconds = result.seconds;
  OrderedJson entry = {
      {"method", result.method}, {"set", result.set}, {"n", score.questions}, {"contexts", score.contexts}};
  if (result.continued) entry["perplexity"] = std::exp(score.nll);
  if (result.answered()) {
    entry["exact_match"] = estimate(score.exact_match, score.exact_match_95);
    entry["f1"] = estimate(score.f1, score.f1_95);
  }
  if (nll || !result.answered()) entry["nll"] = estimate(score.nll, score.nll_95);
  entry.update(
      {{"truncated_contexts", result.truncated},
       {"window",
        {{"contexts", stats.contexts}, {"truncated", stats.truncated}, {"answers_lost", stats.answers_lost}}},
       {"context_tokens", result.context_tokens},
       {"vectors_read", result.vectors},
       {"effective_ratio", result.ratio()},
       {"kv_bytes_per_context", result.kv_bytes},
       {"seconds",
        {{"compress", seconds.compress}, {"prefill", seconds.prefill}, {"decode", seconds.decode}}},
       {"ms_per_question", 1000 * (seconds.compress + seconds.prefill + seconds.decode) / questions},
       {"new_tokens", result.new_tokens}});
  return entry;
}

/// Of plain text only the likelihood is known.
bool is_text(const OrderedJson& entry) {
  return entry.contains("perplexity");
}

std::vector<ScoredQuestion> read_scores(const std::string& path) {
  std::vector<ScoredQuestion> scores;
  for_each_line(path, [&](std::string_view line, int64_t number) {
    const Json row = parse_json(line, path, number);
    scores.push_back({{row.value("exact_match", 0.0), row.value("f1", 0.0), row.value("nll", 0.0)},
                      json_at<int64_t>(row, "context", path)});
  });
  return scores;
}

}  // namespace

EvalResults::EvalResults(std::string directory, std::vector<std::string> methods,
                         std::vector<std::string> sets, OrderedJson header, int64_t resamples)
    : directory_(std::move(directory)),
      methods_(std::move(methods)),
      sets_(std::move(sets)),
      header_(std::move(header)),
      resamples_(resamples) {
  const std::string path = (fs::path(directory_) / "results.json").string();
  if (!fs::exists(path)) return;
  try {
    const Json earlier = read_json_file(path);
    if (earlier.is_object() && earlier.contains("entries")) earlier_ = earlier.at("entries");
  } catch (const Error& error) {
    log_warning(fmt::format("earlier results are not readable and will be made anew: {}", error.what()));
  }
}

std::string EvalResults::relative(const char* folder, const std::string& method, const std::string& set,
                                  const char* ending) const {
  // The plain place belongs to the checkpoint, or to the only method there is.
  if (method == "checkpoint" || methods_.size() == 1) return fmt::format("{}/{}{}", folder, set, ending);
  return fmt::format("{}/{}/{}{}", folder, method, set, ending);
}

bool EvalResults::reuse(const std::string& method, const std::string& set, const std::string& key) {
  for (const auto& entry : earlier_) {
    if (!entry.is_object() || entry.value("method", "") != method || entry.value("set", "") != set ||
        entry.value("key", "") != key)
      continue;
    const std::string records = (fs::path(directory_) / entry.value("records", "")).string();
    if (entry.value("records", "") != relative("records", method, set, ".jsonl")) return false;
    if (!fs::is_regular_file(records) || sha256_hex_of_file(records) != entry.value("records_sha256", ""))
      return false;
    entries_[{method, set}] = {entry, read_scores(records)};
    return true;
  }
  return false;
}

void EvalResults::add(const SetResult& result, const std::string& key, const SourceStats& stats) {
  EvalEntry entry;
  entry.scores = result.scores();
  const ScoreSummary score = summarize_scores(entry.scores, resamples_);
  entry.json = entry_json(result, score, stats, measures_nll());
  const std::string predictions = relative("predictions", result.method, result.set, ".json");
  const std::string records = relative("records", result.method, result.set, ".jsonl");
  OrderedJson answers = OrderedJson::object();
  for (const QuestionRecord& record : result.records) answers[record.qid] = record.prediction;
  for (const std::string& path : {predictions, records})
    make_directories((fs::path(directory_) / path).parent_path().string());
  const std::string lines = records_text(result, measures_nll());
  if (result.answered()) {
    write_file_atomic((fs::path(directory_) / predictions).string(), answers.dump(1) + "\n");
    entry.json["predictions"] = predictions;
  }
  write_file_atomic((fs::path(directory_) / records).string(), lines);
  entry.json["records"] = records;
  entry.json["records_sha256"] = sha256_hex(lines);
  entry.json["key"] = key;
  entries_[{result.method, result.set}] = std::move(entry);
  added_ = true;
  write();
}

void EvalResults::finish() const {
  if (added_) write();
}

OrderedJson EvalResults::summary() const {
  OrderedJson summary = header_;
  summary["methods"] = methods_;
  summary["sets"] = sets_;
  summary["complete"] = entries_.size() == methods_.size() * sets_.size();
  OrderedJson entries = OrderedJson::array(), macro = OrderedJson::object(), paired = OrderedJson::array();
  // The method that the others are compared with: the checkpoint, else the first.
  const bool has_checkpoint = std::find(methods_.begin(), methods_.end(), "checkpoint") != methods_.end();
  const std::string main = has_checkpoint ? "checkpoint" : methods_.front();
  for (const std::string& method : methods_) {
    double f1 = 0, exact_match = 0, nll = 0;
    int64_t count = 0, scored = 0;
    for (const std::string& set : sets_) {
      const auto entry = entries_.find({method, set});
      if (entry == entries_.end()) continue;
      entries.push_back(entry->second.json);
      const bool text = is_text(entry->second.json), answered = entry->second.json.contains("f1");
      if (answered) {
        f1 += entry->second.json["f1"]["value"].get<double>();
        exact_match += entry->second.json["exact_match"]["value"].get<double>();
        ++scored;
      }
      if (!text) {
        if (measures_nll()) nll += entry->second.json["nll"]["value"].get<double>();
        ++count;
      }
      const auto other = entries_.find({main, set});
      if (method == main || other == entries_.end() ||
          other->second.scores.size() != entry->second.scores.size())
        continue;
      const PairedDifference difference =
          compare_scores(entry->second.scores, other->second.scores, resamples_);
      paired.push_back({{"set", set}, {"method", main}, {"minus", method}});
      if (answered)
        paired.back().update({{"f1", estimate(difference.f1, difference.f1_95)},
                              {"exact_match", estimate(difference.exact_match, difference.exact_match_95)},
                              {"f1_p", difference.f1_p},
                              {"exact_match_p", difference.exact_match_p}});
      if (!text && !measures_nll()) continue;
      paired.back()["nll"] = estimate(difference.nll, difference.nll_95);
      paired.back()["nll_p"] = difference.nll_p;
    }
    if (count > 0) macro[method] = OrderedJson::object();
    if (scored > 0)
      macro[method].update({{"f1", f1 / static_cast<double>(scored)},
                            {"exact_match", exact_match / static_cast<double>(scored)}});
    if (count > 0) macro[method]["sets"] = count;
    if (count > 0 && measures_nll()) macro[method]["nll"] = nll / static_cast<double>(count);
  }
  summary["macro"] = macro;
  summary["entries"] = entries;
  summary["paired"] = paired;
  return summary;
}

void EvalResults::write() const {
  const OrderedJson summary = this->summary();
  write_file_atomic((fs::path(directory_) / "results.json").string(), summary.dump(1) + "\n");
  write_file_atomic((fs::path(directory_) / "results.md").string(), results_markdown(summary));
}

}  // namespace ctxc
