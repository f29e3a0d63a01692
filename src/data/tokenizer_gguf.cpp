// The tokenizer of a GGUF file (metadata tokenizer.ggml.*). The file only names its pre-tokenizer; what the
// names mean is llama.cpp's convention.
#include "core/error.h"
#include "core/gguf.h"
#include "data/tokenizer_spec.h"

namespace ctxc {
namespace {

// tokenizer.ggml.token_type
constexpr int64_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

/// Sets the steps that the name `pre` stands for.
void set_pretokenizer(const std::string& pre, TokenizerSpec& spec) {
  if (pre == "smollm") {
    spec.steps = {{R"(\p{N})"}, {kGpt2Pattern}};
  } else if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    spec.steps = {{kLlama3Pattern}};
    spec.ignore_merges = true;
  } else if (pre == "gpt-2") {
    spec.steps = {{kGpt2Pattern}};
  } else if (pre == "default") {
    spec.steps = {{R"([\p{P}\$\+<=>\^~\|]+)"}, {kGpt2Pattern}, {R"(\p{N}+)"}, {"[0-9][0-9][0-9]"}};
  } else {
    throw Error(
        ErrorKind::kInput,
        fmt::format("{}: unknown pre-tokenizer (found tokenizer.ggml.pre '{}', expected one of: smollm, "
                    "llama-bpe, gpt-2, default)",
                    spec.origin, pre),
        "use the model's Hugging Face folder, whose tokenizer.json describes it in full");
  }
}

std::vector<int64_t> token_types(const GgufFile& file, size_t tokens) {
  const std::string key = "tokenizer.ggml.token_type";
  if (!file.contains(key)) return std::vector<int64_t>(tokens, kNormal);
  const auto* types = std::get_if<std::vector<int64_t>>(&file.metadata().at(key).value);
  CTXC_CHECK(types && types->size() == tokens, ErrorKind::kInput, "the file is damaged",
             "{}: {} does not fit the vocabulary (found {} entries, expected {} integers)", file.path(), key,
             types ? types->size() : 0, tokens);
  return *types;
}

void read_tokens(const GgufFile& file, TokenizerSpec& spec) {
  const std::vector<std::string>& tokens = file.strings("tokenizer.ggml.tokens");
  const std::vector<int64_t> types = token_types(file, tokens.size());
  CTXC_CHECK(static_cast<int64_t>(tokens.size()) <= kMaxTokenId, ErrorKind::kInput, "the file is damaged",
             "{}: a vocabulary of {} tokens (expected at most {})", file.path(), tokens.size(), kMaxTokenId);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    CTXC_CHECK(types[i] >= kNormal && types[i] <= kByte, ErrorKind::kInput, "the file is damaged",
               "{}: token {} is of unknown type {}", file.path(), i, types[i]);
    if (types[i] == kUnused) continue;
    if (types[i] == kControl || types[i] == kUserDefined || types[i] == kUnknown)
      spec.added.push_back({.content = tokens[i], .id = id, .special = types[i] != kUserDefined});
    CTXC_CHECK(spec.vocabulary.emplace(tokens[i], id).second, ErrorKind::kInput, "the file is damaged",
               "{}: token {} ('{}') occurs twice in the vocabulary", file.path(), i, tokens[i]);
  }
}

void read_merges(const GgufFile& file, TokenizerSpec& spec) {
  for (const std::string& merge : file.strings("tokenizer.ggml.merges")) {
    const size_t space = merge.find(' ', 1);
    CTXC_CHECK(space != std::string::npos && space + 1 < merge.size(), ErrorKind::kInput,
               "the file is damaged", "{}: merge {} is broken (found '{}', expected 'a b')", file.path(),
               spec.merges.size(), merge);
    spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
}

std::optional<TokenId> role(const GgufFile& file, const std::string& key, size_t tokens) {
  if (!file.contains(key)) return std::nullopt;
  const int64_t id = file.integer(key);
  CTXC_CHECK(id >= 0 && id < static_cast<int64_t>(tokens), ErrorKind::kInput, "the file is damaged",
             "{}: {} is out of range (found {}, expected 0..{})", file.path(), key, id, tokens - 1);
  return static_cast<TokenId>(id);
}

bool flag(const GgufFile& file, const std::string& key, bool fallback) {
  if (!file.contains(key)) return fallback;
  const bool* value = std::get_if<bool>(&file.metadata().at(key).value);
  CTXC_CHECK(value, ErrorKind::kInput, "the file is damaged", "{}: {} is not true or false", file.path(),
             key);
  return *value;
}

}  // namespace

TokenizerSpec read_tokenizer_gguf(const std::string& path) {
  const GgufFile file(path);
  TokenizerSpec spec;
  spec.origin = path;
  const std::string& model = file.string("tokenizer.ggml.model");
  CTXC_CHECK(model == "gpt2", ErrorKind::kInput, "byte-level BPE is supported",
             "{}: unknown tokenizer (found tokenizer.ggml.model '{}', expected 'gpt2')", path, model);
  const std::string pre =
      file.contains("tokenizer.ggml.pre") ? file.string("tokenizer.ggml.pre") : std::string("default");
  set_pretokenizer(pre, spec);
  read_tokens(file, spec);
  read_merges(file, spec);
  const size_t tokens = file.strings("tokenizer.ggml.tokens").size();
  spec.bos = role(file, "tokenizer.ggml.bos_token_id", tokens);
  spec.eos = role(file, "tokenizer.ggml.eos_token_id", tokens);
  spec.pad = role(file, "tokenizer.ggml.padding_token_id", tokens);
  const bool llama3 = spec.ignore_merges;  // llama.cpp adds BOS for this family unless told otherwise
  if (flag(file, "tokenizer.ggml.add_bos_token", llama3) && spec.bos) spec.prefix = {*spec.bos};
  if (flag(file, "tokenizer.ggml.add_eos_token", false) && spec.eos) spec.suffix = {*spec.eos};
  if (file.contains("tokenizer.chat_template")) spec.chat_template = file.string("tokenizer.chat_template");
  return spec;
}

}  // namespace ctxc
