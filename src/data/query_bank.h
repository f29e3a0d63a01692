// Random queries (lcc.md section 4): instructions and questions that know nothing of any context. The project
// ships its own bank (configs/queries.txt, made by scripts/make_query_bank.py, built into the programs); a
// user's file may take its place.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ctxc {

/// `path` empty: the bank of the project. Else a text file with one query a line, or JSONL(.gz) with a key
/// `query`. Empty lines are skipped, repeated queries count once. Error kInput.
std::vector<std::string> load_queries(const std::string& path);

/// Queries of one context: a draw by `seed`, the held-out ones apart from those that are trained on.
struct QueryDraw {
  std::vector<std::string> train, held_out;
};
/// Error kUsage where the bank is too small.
QueryDraw draw_queries(const std::vector<std::string>& bank, int64_t train, int64_t held_out, uint64_t seed);
/// The last `count` of the order that draw_queries takes the first of: no compile of this seed has seen them,
/// unless it draws nearly all. Error kUsage where the bank is too small.
std::vector<std::string> unseen_queries(const std::vector<std::string>& bank, int64_t count, uint64_t seed);

}  // namespace ctxc
