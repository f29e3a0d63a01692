// A tokenizer whose tokens are bytes (so that lengths in tests can be counted by eye), and small file
// helpers.
#pragma once
#include <zlib.h>

#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "data/source.h"
#include "data/utf8.h"
#include "testing.h"

namespace ctxc::testing {

constexpr TokenId kBos = 256, kEos = 257, kPad = 258;

/// Writes it into `dir` and loads it. Token ids are byte values; BOS, EOS and pad follow.
inline Tokenizer byte_tokenizer(const TempDir& dir) {
  Json vocabulary = Json::object();
  char32_t unprintable = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    std::string token;
    append_utf8(token, printable ? static_cast<char32_t>(byte) : unprintable++);
    vocabulary[token] = byte;
  }
  Json added = Json::array();
  for (const auto& [id, content] : {std::pair{kBos, "<bos>"}, {kEos, "<eos>"}, {kPad, "<pad>"}})
    added.push_back({{"id", id}, {"content", content}, {"special", true}});
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const Json bos = {{"type", "TemplateProcessing"},
                    {"single", {{{"SpecialToken", {{"id", "<bos>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                    {"special_tokens", {{"<bos>", {{"id", "<bos>"}, {"ids", {kBos}}}}}}};
  const Json file = {{"added_tokens", added},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", bos},
                     {"decoder", byte_level},
                     {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  std::ofstream(dir / "tokenizer.json") << file.dump();
  std::ofstream(dir / "tokenizer_config.json")
      << R"({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"})";
  return Tokenizer::load(dir.str());
}

/// A prompt without templates or clean-up: the question's bytes, then the answer's and EOS.
inline Prompt plain_prompt(const TempDir& dir) {
  PromptConfig config;
  config.cleanup = "none";
  config.question_prefix = "";
  config.answer_prompt = "";
  return Prompt(config, byte_tokenizer(dir));
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline void write_gzip(const std::filesystem::path& path, const std::string& text) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
}

inline std::string text_of(const Tokens& ids) {
  std::string text;
  for (TokenId id : ids)
    text += id < 256 ? std::string(1, static_cast<char>(id)) : "<" + std::to_string(id) + ">";
  return text;
}

/// What `body` throws; a failure of the test if it throws nothing.
template <class Body>
Error error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorKind::kInternal, "nothing was thrown");
}

}  // namespace ctxc::testing
