// The prompt of a memory as its record keeps it, so that questions are put the way it was made for.
#pragma once
#include "core/json.h"
#include "data/prompt.h"

namespace ctxc {

OrderedJson prompt_record(const PromptConfig& prompt);
/// Key `prompt` of a memory's record; defaults where it does not say. Error kInput.
PromptConfig recorded_prompt(const Json& info, const std::string& origin);

}  // namespace ctxc
