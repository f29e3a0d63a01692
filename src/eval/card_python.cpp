#include "eval/card_python.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/log.h"
#include "data/cleanup.h"
#include "data/prompt_record.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// The texts of a question, each tokenised alone: in front of it and behind it.
std::string parts_of(const CardPrompt& prompt, const std::string& question) {
  const std::string front = prompt.config.question_prefix,
                    back = prompt.config.answer_prompt + prompt.turn_close;
  std::string text = front.empty() ? question : python_text(front) + " + " + question;
  if (!back.empty()) text += (prompt.config.split_question ? ", " : " + ") + python_text(back);
  return text;
}

std::string cleaning() {
  OrderedJson pairs = OrderedJson::array();
  for (const auto& [from, to] : mrqa_detokenization()) pairs.push_back({std::string(from), std::string(to)});
  return fmt::format(R"(    question = question.strip()
    if not question.endswith("?"):
        question += "?"
    for old, new in {}:
        question = question.replace(old, new)
)",
                     pairs.dump());
}

}  // namespace

std::string python_text(const std::string& text) {
  return Json(text).dump();
}

CardPrompt card_prompt(const Json& info, const std::string& base, const std::string& origin) {
  CardPrompt prompt;
  prompt.config = recorded_prompt(info, origin);
  const Json record = json_or<Json>(info, "prompt", Json::object(), origin);
  if (record.contains("turn_close") || prompt.config.head != "chat") {
    prompt.turn_close = json_or<std::string>(record, "turn_close", "", origin);
  } else if (fs::exists(base)) {
    prompt.turn_close = turn_close(prompt.config, Tokenizer::load(base));
  } else {
    prompt.turn_close_known = false;
    log_warning(fmt::format(
        "{}: does not say how a question is closed (an older ctxc made it), and its base is not there to ask "
        "({}): the card says so",
        origin, base));
  }
  return prompt;
}

std::string question_expression(const CardPrompt& prompt) {
  return parts_of(prompt, "QUESTION");
}

std::string python_base(const std::string& base, const std::string& standard, const std::string& packages) {
  const fs::path path(base.empty() ? "PATH OF THE BASE" : base);
  const bool gguf = path.extension() == ".gguf";
  const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
  const std::string from =
      gguf ? fmt::format("{}, gguf_file={}", python_text(folder), python_text(path.filename().string()))
           : python_text(path.string());
  return fmt::format(R"({}{}import torch
{}from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = "."  # where this README.md lies
base = AutoModelForCausalLM.from_pretrained({}, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained({})
)",
                     standard, standard.empty() ? "" : "\n", packages, from, from);
}

std::string python_question(const CardPrompt& prompt) {
  std::string text = R"(

def question_ids(question):
    """The ids that ctxc-run ask sends behind the memory, [1, S]."""
)";
  if (prompt.config.cleanup == "mrqa_v1") text += cleaning();
  text += "    parts = [" + parts_of(prompt, "question") + "]\n";
  text +=
      R"(    return torch.tensor([[i for part in parts for i in tokenizer(part, add_special_tokens=False).input_ids]])


def answer_of(text):
    text = text.strip()
)";
  const std::string& extractor = prompt.config.answer_extractor;
  text += extractor == "whole"        ? "    return text\n"
          : extractor == "first_line" ? "    return text.split(\"\\n\")[0].strip()\n"
                                      : "    return text.split(\".\")[0].split(\"\\n\")[0].strip()\n";
  text += R"(

def answer_text(new_ids):
    return answer_of(tokenizer.decode(new_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


own = base.generation_config.eos_token_id
ending = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
GREEDY = {"max_new_tokens": 32, "do_sample": False, "eos_token_id": sorted(ending),
          "pad_token_id": tokenizer.eos_token_id}
ids = question_ids("YOUR QUESTION")
)";
  return text;
}

}  // namespace ctxc
