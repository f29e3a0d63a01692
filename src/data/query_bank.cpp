#include "data/query_bank.h"

#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/random.h"
#include "core/text.h"
#include "data/ctxc_queries.h"

namespace ctxc {
namespace {

/// Adds queries in order, each once.
class Bank {
 public:
  void add(std::string_view line) {
    const std::string query(trim(line));
    if (!query.empty() && seen_.insert(query).second) queries.push_back(query);
  }
  std::vector<std::string> queries;

 private:
  std::set<std::string> seen_;
};

bool is_jsonl(const std::string& path) {
  return path.ends_with(".jsonl") || path.ends_with(".jsonl.gz");
}

}  // namespace

std::vector<std::string> load_queries(const std::string& path) {
  Bank bank;
  if (path.empty()) {
    for (const std::string& line : split(kShippedQueries, '\n')) bank.add(line);
    return std::move(bank.queries);
  }
  for_each_line(path, [&](std::string_view line, int64_t number) {
    if (trim(line).empty()) return;
    if (!is_jsonl(path)) return bank.add(line);
    const std::string origin = fmt::format("{}:{}", path, number);
    bank.add(json_at<std::string>(parse_json(line, path, number), "query", origin));
  });
  return std::move(bank.queries);
}

QueryDraw draw_queries(const std::vector<std::string>& bank, int64_t train, int64_t held_out, uint64_t seed) {
  const int64_t size = static_cast<int64_t>(bank.size());
  CTXC_CHECK(size >= train + held_out, ErrorKind::kUsage,
             "lower queries.count or queries.held_out, or name a larger bank in queries.path",
             "the bank of random queries is too small (found {}, expected at least {} + {})", size, train,
             held_out);
  QueryDraw draw;
  const KeyedPermutation order(static_cast<uint64_t>(size), seed, "queries");
  for (int64_t i = 0; i < train + held_out; ++i) {
    const std::string& query = bank[order[static_cast<uint64_t>(i)]];
    (i < held_out ? draw.held_out : draw.train).push_back(query);
  }
  return draw;
}

std::vector<std::string> unseen_queries(const std::vector<std::string>& bank, int64_t count, uint64_t seed) {
  const int64_t size = static_cast<int64_t>(bank.size());
  CTXC_CHECK(count <= size, ErrorKind::kUsage, "ask for fewer",
             "the bank of random queries is too small (found {}, expected at least {})", size, count);
  std::vector<std::string> queries;
  const KeyedPermutation order(static_cast<uint64_t>(size), seed, "queries");
  for (int64_t i = size - count; i < size; ++i) queries.push_back(bank[order[static_cast<uint64_t>(i)]]);
  return queries;
}

}  // namespace ctxc
