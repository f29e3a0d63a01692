#include "data/qa_jsonl.h"

#include <optional>

#include "core/error.h"

namespace ctxc {
namespace {

std::string row_id(const JsonRow& row) {
  const std::string fallback = fmt::format("{}-0", row.line);
  for (const char* key : {"qid", "id"}) {
    if (!row.object.contains(key)) continue;
    const Json& value = row.object.at(key);
    return value.is_string() ? value.get<std::string>() : value.dump();
  }
  return fallback;
}

}  // namespace

void read_qa_jsonl(const std::string& path, const QaColumns& columns, ReadOptions& options,
                   const PassageSink& sink) {
  std::optional<Passage> open;
  bool stopped = false;
  for_each_json_row(path, options, [&](const JsonRow& row) {
    Question question;
    question.id = row_id(row);
    question.text = json_at<std::string>(row.object, columns.question, row.origin);
    question.answers = answers_at(row.object, columns.answers, row.origin);
    std::string context = json_at<std::string>(row.object, columns.context, row.origin);
    if (open && open->context == context) {
      open->questions.push_back(std::move(question));
      return Reading::kGoOn;
    }
    if (open && sink(std::move(*open)) == Reading::kStop) {
      stopped = true;
      return Reading::kStop;
    }
    open = Passage{fmt::format("line {}", row.line), std::move(context), {std::move(question)}};
    return Reading::kGoOn;
  });
  if (open && !stopped) sink(std::move(*open));
}

}  // namespace ctxc
