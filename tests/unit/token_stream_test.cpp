#include "data/token_stream.h"

#include <gtest/gtest.h>

#include "core/random.h"
#include "testing.h"

namespace ctxc {
namespace {

Tokenizer tokenizer() {
  static const Tokenizer shared =
      Tokenizer::load((testing::root() / "tests/fixtures/data/tokenizer").string());
  return shared;
}

/// Gives `text` in pieces of at most `step` bytes.
TokenStream stream_of(const std::string& text, size_t step, size_t* position) {
  *position = 0;
  return TokenStream(tokenizer(), [&text, step, position](char* bytes, size_t size) {
    const size_t count = std::min({size, step, text.size() - *position});
    std::copy_n(text.data() + *position, count, bytes);
    *position += count;
    return count;
  });
}

Tokens all_of(const std::string& text, size_t step, size_t count) {
  size_t position = 0;
  TokenStream stream = stream_of(text, step, &position);
  Tokens all;
  for (Tokens part = stream.next(count); !part.empty(); part = stream.next(count))
    all.insert(all.end(), part.begin(), part.end());
  EXPECT_EQ(stream.bytes(), text.size());
  EXPECT_EQ(stream.sha256(), sha256_hex(text));
  EXPECT_FALSE(stream.cut_inside_a_word());
  return all;
}

/// Words, numbers, punctuation, runs of spaces and newlines, scripts of several bytes a character, special
/// tokens.
std::string random_text(uint64_t seed, int words) {
  const std::vector<std::string> pieces = {"the",           "Anna's",     "12,345",   " ",     "\n",
                                           "\n\n",          "\r\n",       "  ",       "\t",    "caf\u00e9",
                                           "\u6587\u5b57",  "\U0001F600", ".",        "...\n", "e.g.",
                                           "<|endoftext|>", "<s>",        "lives in", "\u00a0"};
  CounterRng rng(seed, "text");
  std::string text;
  for (int i = 0; i < words; ++i) {
    text += pieces[rng.below(pieces.size())];
    if (rng.uniform() < 0.6) text += ' ';
  }
  return text;
}

TEST(TokenStream, GivesTheTokensOfTheWholeText) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::string text = random_text(seed, 300);
    const Tokens whole = tokenizer().encode(text);
    for (const size_t step : {1, 7, 64, 4096})
      EXPECT_EQ(all_of(text, step, 16), whole) << seed << ", " << step;
  }
}

TEST(TokenStream, ATextThatEndsInsideACharacterEndsInAReplacement) {
  const std::string text = std::string("Anna lives in Rome \xE6\x96", 21);
  EXPECT_EQ(all_of(text, 3, 4), tokenizer().encode(text));
  EXPECT_EQ(all_of("", 3, 4), Tokens{});
}

TEST(TokenStream, HoldsNoMoreThanItMust) {
  // 64 MiB of text, of which never more than a few reads are held: the reader makes it up.
  const std::string line = "Anna lives in Rome and works as a baker.\n";
  size_t lines = 0, tokens = 0;
  TokenStream stream(tokenizer(), [&](char* bytes, size_t size) {
    if (lines >= 100000) return size_t{0};
    const size_t whole = size / line.size();
    for (size_t i = 0; i < whole; ++i) std::copy_n(line.data(), line.size(), bytes + i * line.size());
    lines += whole;
    return whole * line.size();
  });
  const size_t each = tokenizer().encode(line).size();
  for (Tokens part = stream.next(512); !part.empty(); part = stream.next(512)) tokens += part.size();
  EXPECT_EQ(tokens, lines * each);
}

TEST(TokenStream, AStretchWithoutAPlaceToCutIsCutSomewhere) {
  const std::string text(3 << 20, 'x');
  size_t position = 0;
  TokenStream stream = stream_of(text, 1 << 16, &position);
  std::string again;
  for (Tokens part = stream.next(4096); !part.empty(); part = stream.next(4096))
    again += tokenizer().decode(part);
  EXPECT_EQ(again, text);
}

}  // namespace
}  // namespace ctxc
