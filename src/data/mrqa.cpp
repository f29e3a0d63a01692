#include "data/mrqa.h"

#include "core/error.h"

namespace ctxc {
namespace {

Question read_question(const Json& qa, const std::string& fallback_id, const std::string& origin) {
  CTXC_CHECK(qa.is_object(), ErrorKind::kInput, "", "{}: an entry of 'qas' is no object (found {})", origin,
             qa.type_name());
  Question question;
  question.id = json_or<std::string>(qa, "qid", json_or<std::string>(qa, "id", fallback_id, origin), origin);
  question.text = json_at<std::string>(qa, "question", origin);
  question.answers = answers_at(qa, "answers", origin);
  return question;
}

Passage read_passage(const JsonRow& row) {
  Passage passage;
  passage.id = json_or<std::string>(row.object, "id", "", row.origin);
  if (passage.id.empty()) passage.id = fmt::format("line {}", row.line);
  passage.context = json_at<std::string>(row.object, "context", row.origin);
  CTXC_CHECK(row.object.contains("qas") && row.object.at("qas").is_array(), ErrorKind::kInput, "",
             "{}: 'qas' is missing or no list", row.origin);
  for (const Json& qa : row.object.at("qas"))
    passage.questions.push_back(
        read_question(qa, fmt::format("{}-{}", row.line, passage.questions.size()), row.origin));
  return passage;
}

}  // namespace

void read_mrqa(const std::string& path, ReadOptions& options, const PassageSink& sink) {
  bool first = true;
  for_each_json_row(path, options, [&](const JsonRow& row) {
    const bool is_header = first && row.object.contains("header");
    first = false;
    if (is_header) return Reading::kGoOn;
    return sink(read_passage(row));
  });
}

}  // namespace ctxc
