#include "data/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

#include "core/error.h"
#include "data/byte_alphabet.h"

namespace ctxc {
namespace {

constexpr TokenId kDropped = -1;
constexpr size_t kCacheSlots = size_t{1} << 16, kCacheWords = kCacheSlots / 2;
constexpr size_t kLongestCachedWord = 64;
// Up to here a scan for the best pair beats a heap.
constexpr size_t kShortWord = 48;

uint64_t hash_of(std::string_view word) {
  return std::hash<std::string_view>{}(word);
}

}  // namespace

WordCache::WordCache() : slots_(kCacheSlots) {}

const TokenId* WordCache::find(std::string_view word, uint64_t hash, size_t& count) const {
  for (size_t i = hash & (kCacheSlots - 1);; i = (i + 1) & (kCacheSlots - 1)) {
    const Slot& slot = slots_[i];
    if (slot.length == 0) return nullptr;
    if (slot.hash == hash && slot.length == word.size() && text_.compare(slot.text, slot.length, word) == 0) {
      count = slot.count;
      return ids_.data() + slot.ids;
    }
  }
}

void WordCache::insert(std::string_view word, uint64_t hash, const TokenId* ids, size_t count) {
  if (used_ == kCacheWords) {
    std::fill(slots_.begin(), slots_.end(), Slot{});
    text_.clear();
    ids_.clear();
    used_ = 0;
  }
  size_t i = hash & (kCacheSlots - 1);
  while (slots_[i].length != 0) i = (i + 1) & (kCacheSlots - 1);
  slots_[i] = {hash, static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(ids_.size()),
               static_cast<uint32_t>(word.size()), static_cast<uint32_t>(count)};
  text_ += word;
  ids_.insert(ids_.end(), ids, ids + count);
  ++used_;
}

Bpe::Bpe(const TokenizerSpec& spec) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto token = spec.vocabulary.find(byte_character(static_cast<unsigned char>(byte)));
    byte_token_[byte] = token != spec.vocabulary.end() ? token->second : spec.unknown.value_or(kDropped);
  }
  add_merges(spec);
  if (!spec.ignore_merges) return;
  for (const auto& [spelling, id] : spec.vocabulary)
    if (auto bytes = bytes_of_spelling(spelling)) whole_words_.emplace(std::move(*bytes), id);
}

void Bpe::add_merges(const TokenizerSpec& spec) {
  merges_.resize(std::bit_ceil(std::max<size_t>(spec.merges.size() * 2, 4)));
  mask_ = merges_.size() - 1;
  int32_t rank = 0;
  for (const auto& [left, right] : spec.merges) {
    const auto id = [&](const std::string& token) {
      const auto found = spec.vocabulary.find(token);
      CTXC_CHECK(found != spec.vocabulary.end(), ErrorKind::kInput,
                 "the file is damaged, or was put together by hand",
                 "{}: merge {} ('{}' + '{}') needs the token '{}', which the vocabulary does not hold",
                 spec.origin, rank, left, right, token);
      return found->second;
    };
    const uint64_t pair = pair_of(id(left), id(right));
    merges_[slot_of(pair)] = {pair, rank++, id(left + right)};  // a repeated merge counts with its last rank
  }
}

size_t Bpe::slot_of(uint64_t pair) const {
  size_t i = ((pair ^ pair >> 32) * 0x9E3779B97F4A7C15ull >> 20) & mask_;
  while (merges_[i].pair != pair && merges_[i].pair != kNoPair) i = (i + 1) & mask_;
  return i;
}

void Bpe::encode(std::string_view word, Scratch& scratch, Tokens& out) const {
  if (word.size() == 1) {
    const TokenId id = byte_token_[static_cast<unsigned char>(word[0])];
    if (id != kDropped) out.push_back(id);
    return;
  }
  const bool cached = word.size() <= kLongestCachedWord;
  const uint64_t hash = cached ? hash_of(word) : 0;
  if (cached) {
    size_t count;
    if (const TokenId* ids = scratch.cache.find(word, hash, count)) {
      out.insert(out.end(), ids, ids + count);
      return;
    }
  }
  Tokens& symbols = scratch.symbols;
  symbols.clear();
  const auto whole = whole_words_.empty() ? whole_words_.end() : whole_words_.find(std::string(word));
  if (whole != whole_words_.end()) {
    symbols.push_back(whole->second);
  } else {
    for (const char byte : word) {
      const TokenId id = byte_token_[static_cast<unsigned char>(byte)];
      if (id != kDropped) symbols.push_back(id);
    }
    if (symbols.size() <= kShortWord)
      merge_short(scratch);
    else
      merge_long(scratch);
  }
  if (cached) scratch.cache.insert(word, hash, symbols.data(), symbols.size());
  out.insert(out.end(), symbols.begin(), symbols.end());
}

// ranks[i] is the rank of the pair (symbols[i], symbols[i + 1]).
void Bpe::merge_short(Scratch& scratch) const {
  Tokens& symbols = scratch.symbols;
  auto& ranks = scratch.ranks;
  ranks.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) ranks.push_back(merge(symbols[i], symbols[i + 1]).rank);
  while (!ranks.empty()) {
    const auto best = std::min_element(ranks.begin(), ranks.end());
    if (*best == kNoRank) return;
    const size_t i = best - ranks.begin();
    symbols[i] = merge(symbols[i], symbols[i + 1]).result;
    symbols.erase(symbols.begin() + i + 1);
    ranks.erase(best);
    if (i > 0) ranks[i - 1] = merge(symbols[i - 1], symbols[i]).rank;
    if (i < ranks.size()) ranks[i] = merge(symbols[i], symbols[i + 1]).rank;
  }
}

// A doubly linked list of symbols and a heap of candidate pairs; candidates whose symbols have changed are
// skipped.
void Bpe::merge_long(Scratch& scratch) const {
  struct Candidate {
    int32_t rank, position;
    TokenId left, right;
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  Tokens& symbols = scratch.symbols;
  const auto count = static_cast<int32_t>(symbols.size());
  auto& next = scratch.next;
  auto& previous = scratch.previous;
  next.resize(count);
  previous.resize(count);
  std::vector<Candidate> storage;
  storage.reserve(count);
  std::priority_queue<Candidate> candidates({}, std::move(storage));
  const auto consider = [&](int32_t i) {
    if (i < 0 || next[i] < 0) return;
    const int32_t rank = merge(symbols[i], symbols[next[i]]).rank;
    if (rank != kNoRank) candidates.push({rank, i, symbols[i], symbols[next[i]]});
  };
  for (int32_t i = 0; i < count; ++i) next[i] = i + 1 < count ? i + 1 : -1, previous[i] = i - 1;
  for (int32_t i = 0; i < count; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    const int32_t i = best.position, right = next[i];
    if (symbols[i] != best.left || right < 0 || symbols[right] != best.right) continue;
    symbols[i] = merge(best.left, best.right).result;
    symbols[right] = kDropped;
    next[i] = next[right];
    if (next[i] >= 0) previous[next[i]] = i;
    consider(previous[i]);
    consider(i);
  }
  std::erase(symbols, kDropped);
}

}  // namespace ctxc
