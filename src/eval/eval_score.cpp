#include "eval/eval_score.h"

#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "data/jsonl.h"
#include "data/squad.h"
#include "eval/score.h"

namespace ctxc {
namespace {

using GoldSink = std::function<void(const std::string& qid, const std::vector<std::string>& answers)>;

std::string qid_of(const Json& object, const std::string& origin) {
  return json_at<std::string>(object, object.is_object() && !object.contains("qid") ? "id" : "qid", origin);
}

/// A row of MRQA JSONL (its questions) or a row that is a question itself; only id and answers are looked at.
void read_gold_row(const JsonRow& row, const GoldSink& sink) {
  if (!row.object.contains("qas")) {
    sink(qid_of(row.object, row.origin), answers_at(row.object, "answers", row.origin));
    return;
  }
  CTXC_CHECK(row.object.at("qas").is_array(), ErrorKind::kInput, "", "{}: 'qas' is no list", row.origin);
  for (const Json& qa : row.object.at("qas")) {
    const std::string qid = qid_of(qa, row.origin);
    sink(qid, answers_at(qa, "answers", row.origin));
  }
}

/// SQuAD files are one JSON value, on one line or on many.
bool is_squad(const std::string& path) {
  const std::string line = first_line(path);
  if (!trim(line).starts_with("{")) return false;
  try {
    const Json object = parse_json(line, path);
    return object.is_object() && object.contains("data");
  } catch (const Error&) {
    return path.ends_with(".json") || path.ends_with(".json.gz");
  }
}

void read_gold(const std::string& path, const GoldSink& sink) {
  ReadOptions options;
  if (is_squad(path)) {
    read_squad(path, options, [&](Passage&& passage) {
      for (const Question& question : passage.questions) sink(question.id, question.answers);
      return Reading::kGoOn;
    });
    return;
  }
  bool first = true;
  for_each_json_row(path, options, [&](const JsonRow& row) {
    if (!first || !row.object.contains("header")) read_gold_row(row, sink);
    first = false;
    return Reading::kGoOn;
  });
}

Json read_predictions(const std::string& path) {
  Json predictions = read_json_file(path);
  CTXC_CHECK(predictions.is_object(), ErrorKind::kInput, "write one JSON object {qid: text}",
             "{}: the predictions are no JSON object (found {})", path, predictions.type_name());
  return predictions;
}

int run_score(const Cli& cli) {
  const FileScore score = score_files(cli.require("gold"), cli.require("predictions"),
                                      cli.has("skip-no-answer"), cli.get("per-question"));
  std::puts(fmt::format(R"({{"exact_match": {}, "f1": {}, "n": {}}})", Json(score.exact_match).dump(),
                        Json(score.f1).dump(), score.questions)
                .c_str());
  return 0;
}

}  // namespace

FileScore score_files(const std::string& gold, const std::string& predictions, bool skip_no_answer,
                      const std::string& per_question) {
  const Json texts = read_predictions(predictions);
  std::unique_ptr<AtomicFile> details;
  if (!per_question.empty()) details = std::make_unique<AtomicFile>(per_question);
  FileScore total;
  int64_t seen = 0;
  read_gold(gold, [&](const std::string& qid, const std::vector<std::string>& answers) {
    ++seen;
    const auto text = texts.find(qid);
    if (text == texts.end() && skip_no_answer) return;
    Score score;
    if (text != texts.end()) score = score_answer(json_at<std::string>(texts, qid, predictions), answers);
    total.exact_match += score.exact_match;
    total.f1 += score.f1;
    ++total.questions;
    if (details)
      details->write(
          OrderedJson{{"qid", qid}, {"exact_match", score.exact_match == 1 ? 1 : 0}, {"f1", score.f1}}
              .dump() +
          "\n");
  });
  CTXC_CHECK(seen > 0, ErrorKind::kInput, "", "{}: the gold file holds no question", gold);
  CTXC_CHECK(total.questions > 0, ErrorKind::kInput, "",
             "{}: no question of the gold file has a prediction ({} questions)", predictions, seen);
  total.exact_match *= 100 / static_cast<double>(total.questions);
  total.f1 *= 100 / static_cast<double>(total.questions);
  if (details) details->commit();
  return total;
}

void add_eval_score(Subcommands& program) {
  program.add("score",
              {.summary = "Scores a predictions file with the official MRQA / SQuAD metric (percent).",
               .usage = "ctxc-eval score --gold FILE --predictions FILE",
               .options = {{"gold", "FILE", "MRQA JSONL(.gz), SQuAD JSON, or rows with qid and answers"},
                           {"predictions", "FILE", "one JSON object {qid: text}"},
                           {"per-question", "OUT.jsonl",
                            "write qid, exact_match and f1 (fractions) of every question"},
                           {"skip-no-answer", "", "leave questions without a prediction out of the mean"}}},
              run_score);
}

}  // namespace ctxc
