// The prompt of a memory as its record keeps it, so that questions are put the way it was made for.
#pragma once
#include "core/json.h"
#include "data/prompt.h"

namespace ctxc {

OrderedJson prompt_record(const PromptConfig& prompt);
/// The same and `turn_close`: what stands behind the answer prompt with head `chat`, so that other programs
/// can put a question without knowing the chat format; "" with other heads.
OrderedJson prompt_record(const Prompt& prompt);
/// That text, of the tokenizer's chat format.
std::string turn_close(const PromptConfig& prompt, const Tokenizer& tokenizer);
/// Key `prompt` of a memory's record; defaults where it does not say. Error kInput.
PromptConfig recorded_prompt(const Json& info, const std::string& origin);

}  // namespace ctxc
