// Byte-pair encoding of single words: the bytes become tokens, then the adjacent pair with the best rank is
// merged (leftmost first among equals) until no pair has a rank. Frequent words come from a cache.
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer_spec.h"

namespace ctxc {

/// Words already encoded. Belongs to one thread at a time; forgets everything when full.
class WordCache {
 public:
  WordCache();
  /// The tokens of `word` (count in `count`), or nullptr.
  const TokenId* find(std::string_view word, uint64_t hash, size_t& count) const;
  void insert(std::string_view word, uint64_t hash, const TokenId* ids, size_t count);

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t text = 0, ids = 0;
    uint32_t length = 0, count = 0;  ///< length 0: free
  };
  std::vector<Slot> slots_;
  size_t used_ = 0;
  std::string text_;
  Tokens ids_;
};

class Bpe {
 public:
  /// Buffers of one thread.
  struct Scratch {
    WordCache cache;
    Tokens symbols;
    std::vector<int32_t> ranks, next, previous;
  };

  /// Error kInput if a merge or a merged token is missing in the vocabulary.
  explicit Bpe(const TokenizerSpec& spec);

  /// Appends the tokens of `word` (raw bytes, not empty).
  void encode(std::string_view word, Scratch& scratch, Tokens& out) const;

 private:
  struct Merge {
    uint64_t pair = kNoPair;
    int32_t rank = kNoRank;
    TokenId result = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr int32_t kNoRank = INT32_MAX;
  static uint64_t pair_of(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t pair) const;
  const Merge& merge(TokenId left, TokenId right) const { return merges_[slot_of(pair_of(left, right))]; }

  void add_merges(const TokenizerSpec& spec);
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;

  std::array<TokenId, 256> byte_token_;  ///< kDropped where no token stands for the byte
  std::vector<Merge> merges_;            ///< open addressing, a power of two, at most half full
  uint64_t mask_ = 0;
  std::unordered_map<std::string, TokenId> whole_words_;  ///< raw bytes of every token, for ignore_merges
};

}  // namespace ctxc
