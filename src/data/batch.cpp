#include "data/batch.h"

namespace ctxc {

int64_t Batch::context_tokens() const {
  int64_t total = 0;
  for (const Example& example : examples) total += static_cast<int64_t>(example.context.size());
  return total;
}

int64_t Batch::query_tokens() const {
  int64_t total = 0;
  for (const Example& example : examples)
    for (const Query& query : example.queries)
      total += static_cast<int64_t>(query.prompt.size() + query.target.size());
  return total;
}

int64_t Batch::supervised_tokens() const {
  int64_t total = 0;
  for (const Example& example : examples)
    for (const Query& query : example.queries) total += static_cast<int64_t>(query.target.size());
  return total;
}

int64_t Batch::queries() const {
  int64_t total = 0;
  for (const Example& example : examples) total += static_cast<int64_t>(example.queries.size());
  return total;
}

}  // namespace ctxc
