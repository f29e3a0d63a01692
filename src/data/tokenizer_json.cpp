// tokenizer.json of Hugging Face's tokenizers, as far as it describes byte-level BPE. What it cannot mean
// here is refused by name: a tokenizer that is nearly right is worse than none.
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer_spec.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr char kHint[] = "byte-level BPE as GPT-2, Llama 3 and SmolLM2 use it is supported";

/// object[key], or null where it is absent.
const Json& member(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() ? *found : null;
}

[[noreturn]] void unsupported(const std::string& origin, const std::string& what) {
  throw Error(ErrorKind::kInput, fmt::format("{}: {} is not supported", origin, what), kHint);
}

std::string type_of(const Json& object, const std::string& origin) {
  return json_at<std::string>(object, "type", origin);
}

/// The list object[key].
const Json& list_at(const Json& object, const char* key, const std::string& origin) {
  const Json& list = member(object, key);
  if (!list.is_array()) json_type_error(object, key, origin, "a list");
  return list;
}

TokenId token_id(const Json& value, const std::string& what, const std::string& origin) {
  CTXC_CHECK(value.is_number_integer() && value.get<int64_t>() >= 0 && value.get<int64_t>() <= kMaxTokenId,
             ErrorKind::kInput, "the file is damaged",
             "{}: the id of '{}' is out of range (found {}, expected 0..{})", origin, what, value.dump(),
             kMaxTokenId);
  return value.get<TokenId>();
}

void read_vocabulary(const Json& model, TokenizerSpec& spec) {
  const Json& vocabulary = member(model, "vocab");
  if (!vocabulary.is_object()) json_type_error(model, "vocab", spec.origin, "an object");
  spec.vocabulary.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items())
    spec.vocabulary[token] = token_id(id, token, spec.origin);
}

// A merge is "a b" or ["a", "b"].
void read_merges(const Json& model, TokenizerSpec& spec) {
  const auto broken = [&](const Json& merge) {
    throw Error(ErrorKind::kInput,
                fmt::format("{}: merge {} is broken (found {}, expected \"a b\" or [\"a\", \"b\"])",
                            spec.origin, spec.merges.size(), merge.dump()),
                "the file is damaged");
  };
  for (const Json& merge : list_at(model, "merges", spec.origin)) {
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (text.starts_with("#version")) continue;
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) broken(merge);
      spec.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else {
      if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string())
        broken(merge);
      spec.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
}

void read_model(const Json& model, TokenizerSpec& spec) {
  const std::string& origin = spec.origin;
  if (!model.is_object()) unsupported(origin, "a file without \"model\"");
  const std::string type = json_or<std::string>(model, "type", "BPE", origin);
  if (type != "BPE") unsupported(origin, fmt::format("model type '{}'", type));
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!json_or<std::string>(model, affix, "", origin).empty()) unsupported(origin, affix);
  if (json_or<bool>(model, "byte_fallback", false, origin)) unsupported(origin, "byte_fallback");
  if (json_or<double>(model, "dropout", 0.0, origin) != 0) unsupported(origin, "dropout");
  read_vocabulary(model, spec);
  read_merges(model, spec);
  spec.ignore_merges = json_or<bool>(model, "ignore_merges", false, origin);
  const std::string unknown = json_or<std::string>(model, "unk_token", "", origin);
  if (unknown.empty()) return;
  const auto found = spec.vocabulary.find(unknown);
  CTXC_CHECK(found != spec.vocabulary.end(), ErrorKind::kInput, "the file is damaged",
             "{}: the vocabulary lacks unk_token '{}'", origin, unknown);
  spec.unknown = found->second;
  if (json_or<bool>(model, "fuse_unk", false, origin)) unsupported(origin, "fuse_unk");
}

void read_normalizer(const Json& normalizer, TokenizerSpec& spec) {
  if (normalizer.is_null()) return;
  const std::string type = type_of(normalizer, spec.origin);
  if (type == "Sequence") {
    for (const Json& part : list_at(normalizer, "normalizers", spec.origin)) read_normalizer(part, spec);
  } else if (type == "NFC") {
    spec.nfc = true;
  } else {
    unsupported(spec.origin, fmt::format("normalizer '{}'", type));
  }
}

SplitBehavior read_behavior(const Json& step, const std::string& origin) {
  const std::string name = json_at<std::string>(step, "behavior", origin);
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  unsupported(origin, fmt::format("split behavior '{}'", name));
}

SplitStep read_split(const Json& step, const std::string& origin) {
  SplitStep out;
  const Json& pattern = member(step, "pattern");
  if (pattern.is_object() && pattern.contains("Regex"))
    out.pattern = json_at<std::string>(pattern, "Regex", origin);
  else
    out.pattern = escape_regex(json_at<std::string>(pattern, "String", origin));
  if (out.pattern.empty()) unsupported(origin, "an empty split pattern");
  out.behavior = read_behavior(step, origin);
  out.invert = json_or<bool>(step, "invert", false, origin);
  return out;
}

/// Appends the steps of `step`; `byte_level` becomes true with ByteLevel, which has to be the last one.
void read_pretokenizer(const Json& step, bool& byte_level, TokenizerSpec& spec) {
  const std::string type = type_of(step, spec.origin);
  if (type == "Sequence") {
    for (const Json& part : list_at(step, "pretokenizers", spec.origin))
      read_pretokenizer(part, byte_level, spec);
    return;
  }
  if (byte_level) unsupported(spec.origin, fmt::format("pre-tokenizer '{}' behind ByteLevel", type));
  if (type == "Split") {
    spec.steps.push_back(read_split(step, spec.origin));
  } else if (type == "Digits") {
    const bool single = json_or<bool>(step, "individual_digits", false, spec.origin);
    spec.steps.push_back({R"(\p{N})", single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "ByteLevel") {
    byte_level = true;
    const bool cut = json_or<bool>(step, "use_regex", true, spec.origin);
    const bool space = json_or<bool>(step, "add_prefix_space", true, spec.origin);
    if (cut || space) spec.steps.push_back({cut ? kGpt2Pattern : "", SplitBehavior::kIsolated, false, space});
  } else {
    unsupported(spec.origin, fmt::format("pre-tokenizer '{}'", type));
  }
}

void read_template(const Json& processor, TokenizerSpec& spec) {
  bool behind = false;
  for (const Json& part : list_at(processor, "single", spec.origin)) {
    if (part.contains("Sequence")) {
      behind = true;
      continue;
    }
    const std::string name = json_at<std::string>(member(part, "SpecialToken"), "id", spec.origin);
    const Json& token = member(member(processor, "special_tokens"), name.c_str());
    for (const Json& id : list_at(token, "ids", spec.origin))
      (behind ? spec.suffix : spec.prefix).push_back(token_id(id, name, spec.origin));
  }
}

void read_post_processor(const Json& processor, TokenizerSpec& spec) {
  if (processor.is_null()) return;
  const std::string type = type_of(processor, spec.origin);
  if (type == "Sequence") {
    for (const Json& part : list_at(processor, "processors", spec.origin)) read_post_processor(part, spec);
  } else if (type == "TemplateProcessing") {
    read_template(processor, spec);
  } else if (type != "ByteLevel") {  // ByteLevel moves offsets, which nobody reads here
    unsupported(spec.origin, fmt::format("post-processor '{}'", type));
  }
}

void check_decoder(const Json& decoder, const std::string& origin) {
  const std::string type = decoder.is_null() ? "null" : type_of(decoder, origin);
  if (type == "Sequence") {
    for (const Json& part : list_at(decoder, "decoders", origin)) check_decoder(part, origin);
  } else if (type != "ByteLevel") {
    unsupported(origin, fmt::format("decoder '{}'", type));
  }
}

void read_added_tokens(const Json& list, TokenizerSpec& spec) {
  if (list.is_null()) return;
  CTXC_CHECK(list.is_array(), ErrorKind::kInput, "the file is damaged", "{}: added_tokens is not a list",
             spec.origin);
  for (const Json& entry : list) {
    AddedToken token;
    token.content = json_at<std::string>(entry, "content", spec.origin);
    token.id = token_id(member(entry, "id"), token.content, spec.origin);
    token.special = json_or<bool>(entry, "special", false, spec.origin);
    token.single_word = json_or<bool>(entry, "single_word", false, spec.origin);
    token.lstrip = json_or<bool>(entry, "lstrip", false, spec.origin);
    token.rstrip = json_or<bool>(entry, "rstrip", false, spec.origin);
    token.normalized = json_or<bool>(entry, "normalized", !token.special, spec.origin);
    spec.added.push_back(std::move(token));
  }
}

/// The id of a token named by its string or by {"content": string}.
std::optional<TokenId> token_named(const Json& name, const TokenizerSpec& spec, const std::string& origin) {
  if (name.is_null()) return std::nullopt;
  const std::string content =
      name.is_string() ? name.get<std::string>() : json_at<std::string>(name, "content", origin);
  for (const AddedToken& token : spec.added)
    if (token.content == content) return token.id;
  const auto found = spec.vocabulary.find(content);
  CTXC_CHECK(found != spec.vocabulary.end(), ErrorKind::kInput, "the tokenizer files do not belong together",
             "{}: the token '{}' is not in {}", origin, content, spec.origin);
  return found->second;
}

/// bos_token_id and its like: an id, or a list of which the first counts.
std::optional<TokenId> token_numbered(const Json& value, const std::string& key, const std::string& origin) {
  if (value.is_null() || (value.is_array() && value.empty())) return std::nullopt;
  const Json& first = value.is_array() ? value[0] : value;
  if (first.is_number_integer() && first.get<int64_t>() == -1) return std::nullopt;  // "none" in older files
  return token_id(first, key, origin);
}

void read_chat_template(const Json& config, const fs::path& folder, TokenizerSpec& spec) {
  if (fs::exists(folder / "chat_template.jinja")) {
    spec.chat_template = read_file((folder / "chat_template.jinja").string());
    return;
  }
  const Json& value = member(config, "chat_template");
  if (value.is_string()) spec.chat_template = value.get<std::string>();
  if (!value.is_array()) return;
  for (const Json& named : value)
    if (json_or<std::string>(named, "name", "", spec.origin) == "default")
      spec.chat_template = json_at<std::string>(named, "template", spec.origin);
}

// Which tokens begin, end and pad: the tokenizer's own files first, then the model's.
void read_roles(const fs::path& folder, TokenizerSpec& spec) {
  const auto assign = [](std::optional<TokenId>& role, std::optional<TokenId> found) {
    if (!role) role = found;
  };
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string path = (folder / name).string();
    if (!fs::exists(path)) continue;
    const Json config = read_json_file(path);
    assign(spec.bos, token_named(member(config, "bos_token"), spec, path));
    assign(spec.eos, token_named(member(config, "eos_token"), spec, path));
    assign(spec.pad, token_named(member(config, "pad_token"), spec, path));
    if (std::string_view(name) == "tokenizer_config.json") read_chat_template(config, folder, spec);
  }
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::string path = (folder / name).string();
    if (!fs::exists(path)) continue;
    const Json config = read_json_file(path);
    assign(spec.bos, token_numbered(member(config, "bos_token_id"), "bos_token_id", path));
    assign(spec.eos, token_numbered(member(config, "eos_token_id"), "eos_token_id", path));
    assign(spec.pad, token_numbered(member(config, "pad_token_id"), "pad_token_id", path));
  }
}

}  // namespace

TokenizerSpec read_tokenizer_json(const std::string& folder) {
  TokenizerSpec spec;
  spec.origin = (fs::path(folder) / "tokenizer.json").string();
  CTXC_CHECK(
      fs::exists(spec.origin), ErrorKind::kInput,
      "save the tokenizer with Hugging Face's fast tokenizers (tokenizer.save_pretrained), which write it",
      "{}: no such file", spec.origin);
  const Json file = read_json_file(spec.origin);
  read_model(member(file, "model"), spec);
  read_normalizer(member(file, "normalizer"), spec);
  bool byte_level = false;
  if (!member(file, "pre_tokenizer").is_null()) read_pretokenizer(file["pre_tokenizer"], byte_level, spec);
  if (!byte_level) unsupported(spec.origin, "a pre-tokenizer without ByteLevel");
  read_post_processor(member(file, "post_processor"), spec);
  check_decoder(member(file, "decoder"), spec.origin);
  read_added_tokens(member(file, "added_tokens"), spec);
  read_roles(folder, spec);
  return spec;
}

}  // namespace ctxc
