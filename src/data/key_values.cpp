#include "data/key_values.h"

#include <map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "data/synthetic.h"

namespace ctxc {
namespace {

constexpr uint64_t kValidShare = 8;  ///< one row of pairs in so many is valid
constexpr uint64_t kAttempts = 1000;
constexpr const char* kLead = " town";

/// Different values of so many words.
int64_t known_values(int64_t words) {
  int64_t result = 1;
  for (; words > 0; --words) result *= static_cast<int64_t>(synthetic_places().size());
  return result;
}

/// Value `index`: a place, or a row of places. The rows of a small alphabet are scattered over all there are,
/// so that their words look like those of random ones.
std::string value_text(const KeyValuesConfig& config, uint64_t index) {
  const auto& places = synthetic_places();
  const auto all = static_cast<uint64_t>(known_values(config.value_tokens));
  uint64_t number = config.value_tokens == 1 ? index : KeyedPermutation(all, 0, "key-values/strings")[index];
  std::string text;
  for (int64_t i = 0; i < config.value_tokens; ++i) {
    text += " " + places[number % places.size()];
    number /= places.size();
  }
  return text;
}

/// What counts of a key: the last pair it was written in.
struct Last {
  std::string value;
  int64_t pair = 0;  ///< pairs before it
};

struct Row {
  std::string text;
  std::vector<std::string> keys;  ///< those that occur, in order of their first pair
  std::map<std::string, Last> last;
};

Row draw_row(const KeyValuesConfig& config, CounterRng& rng) {
  Row row;
  for (int64_t i = 0; i < config.pairs; ++i) {
    const std::string key = " " + synthetic_names()[rng.below(static_cast<uint64_t>(config.keys))];
    const std::string value = value_text(config, rng.below(static_cast<uint64_t>(config.values)));
    row.text += key + value;
    if (row.last.insert_or_assign(key, Last{value, i}).second) row.keys.push_back(key);
  }
  return row;
}

void check(const KeyValuesConfig& config) {
  const int64_t known = known_values(config.value_tokens);
  CTXC_CHECK(
      config.values <= known, ErrorKind::kUsage, "lower values, or raise value_tokens",
      "key_values: more values than there are of so many tokens (found {} of {} tokens, expected at most {})",
      config.values, config.value_tokens, known);
}

}  // namespace

void KeyValuesConfig::describe(Fields& f) {
  f("count", count, "passages").min(1);
  f("seed", seed, "other seeds give other passages").min(0);
  f("split", split, "train and valid never share a row of pairs").one_of({"train", "valid"});
  f("pairs", pairs, "key-value pairs in a passage").min(1).max(4096);
  f("keys", keys, "different keys that pairs are made with; a key may come again").min(1).max(40);
  f("queries", queries, "keys asked for").min(1).max(40);
  f("values", values, "different values: at most 32^value_tokens").min(1);
  f("value_tokens", value_tokens, "words of a value").min(1).max(6);
  f("lead", lead,
    "tokens before the first pair: 1 puts key and value of a pair into different windows of two")
      .min(0)
      .max(64);
}

Passage key_values_passage(const KeyValuesConfig& config, int64_t index) {
  check(config);
  const auto seed = static_cast<uint64_t>(config.seed);
  const std::string stream = fmt::format("key-values/{}/{}/{}/{}/{}", config.split, config.pairs, config.keys,
                                         config.values, config.value_tokens);
  // Rows of the other split are drawn again: the attempt is the second half of the counter.
  for (uint64_t attempt = 0;; ++attempt) {
    CTXC_CHECK(attempt < kAttempts, ErrorKind::kUsage, "raise pairs, keys or values",
               "key_values: too few different rows of pairs for a {} split (found none in {} draws)",
               config.split, kAttempts);
    CounterRng rng(seed, stream, static_cast<uint64_t>(index), attempt);
    Row row = draw_row(config, rng);
    if ((hash64(row.text) % kValidShare == 0) != (config.split == "valid")) continue;
    Passage passage;
    passage.id = fmt::format("{}-{}-{}", config.split, config.seed, index);
    for (int64_t i = 0; i < config.lead; ++i) passage.context += kLead;
    passage.context += row.text;
    for (int64_t number = 0; number < config.queries && !row.keys.empty(); ++number) {
      const size_t drawn = rng.below(row.keys.size());
      const std::string key = std::exchange(row.keys[drawn], row.keys.back());
      row.keys.pop_back();
      const auto& [value, pair] = row.last.at(key);
      passage.questions.push_back(
          {fmt::format("{}-{}@depth={}/{}", passage.id, number, pair, config.pairs), key, {value}});
    }
    return passage;
  }
}

}  // namespace ctxc
