#include "data/squad.h"

#include "core/error.h"
#include "core/file.h"

namespace ctxc {
namespace {

/// The whole text of a plain or gzip file.
std::string read_text(const std::string& path) {
  std::string text;
  for_each_line(path, [&](std::string_view line, int64_t) { text.append(line).push_back('\n'); });
  return text;
}

const Json& list_at(const Json& object, const char* key, const std::string& origin) {
  CTXC_CHECK(object.is_object() && object.contains(key) && object.at(key).is_array(), ErrorKind::kInput, "",
             "{}: '{}' is missing or no list", origin, key);
  return object.at(key);
}

Passage read_paragraph(const Json& paragraph, const std::string& id, const std::string& origin) {
  Passage passage;
  passage.id = id;
  passage.context = json_at<std::string>(paragraph, "context", origin);
  for (const Json& qa : list_at(paragraph, "qas", origin)) {
    Question question;
    question.id = json_at<std::string>(qa, "id", origin);
    question.text = json_at<std::string>(qa, "question", origin);
    if (!json_or<bool>(qa, "is_impossible", false, origin))
      for (const Json& answer : list_at(qa, "answers", origin))
        question.answers.push_back(json_at<std::string>(answer, "text", origin));
    passage.questions.push_back(std::move(question));
  }
  return passage;
}

}  // namespace

void read_squad(const std::string& path, ReadOptions& options, const PassageSink& sink) {
  const Json document = parse_json(read_text(path), path);
  int64_t article_number = 0;
  for (const Json& article : list_at(document, "data", path)) {
    const std::string article_origin = fmt::format("{}: data[{}]", path, article_number);
    int64_t number = 0;
    for (const Json& paragraph : list_at(article, "paragraphs", article_origin)) {
      const std::string origin = fmt::format("{}.paragraphs[{}]", article_origin, number);
      try {
        if (sink(read_paragraph(paragraph, fmt::format("{}-{}", article_number, number), origin)) ==
            Reading::kStop)
          return;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kInput || !options.skip_bad_lines) throw;
        ++options.bad_lines;
      }
      ++number;
    }
    ++article_number;
  }
}

}  // namespace ctxc
