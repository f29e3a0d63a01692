// Section `eval`: what ctxc-eval measures, and what the trainer measures on its validation data.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"

namespace ctxc {

struct EvalConfig {
  std::vector<std::string> methods = {"checkpoint"};
  std::vector<std::string> benchmarks;
  int64_t limit = 0;
  int64_t batch_tokens = 4096;
  int64_t max_new_tokens = 20;
  int64_t bootstrap = 1000;
  int64_t query_tokens = 128;
  bool nll = false, answers = true;
  std::string shots_from, hidden_cache;
  double hidden_cache_gb = 20;

  void describe(Fields& f) {
    f("methods", methods,
      "full | none | truncate_head | truncate_tail | bm25 | checkpoint | foreign (a control: the "
      "checkpoint's "
      "memory of another passage); checkpoint=DIR, foreign=DIR, and truncate_head=DIR, truncate_tail=DIR, "
      "bm25=DIR: what the checkpoint in DIR makes of so many tokens");
    f("benchmarks", benchmarks,
      "sets by name (squad, newsqa, …), found below data.root; empty: the list data.eval");
    f("limit", limit, "questions of each set, drawn by a fixed permutation; 0 = all").min(0);
    f("batch_tokens", batch_tokens, "context and question tokens decoded together").min(1).unit("tokens");
    f("max_new_tokens", max_new_tokens, "longest answer").min(1).unit("tokens");
    f("bootstrap", bootstrap, "resamples behind the 95 % intervals").min(10);
    f("query_tokens", query_tokens, "longest question with its template; longer ones lose their beginning")
        .min(1)
        .unit("tokens");
    f("nll", nll, "also measure the NLL of each question's first accepted answer, in nats a token");
    f("answers", answers,
      "decode answers and score them (EM, F1); false: the likelihood of eval.nll alone, in less time");
    f("hidden_cache", hidden_cache,
      "folder that keeps what the base makes of the contexts (bfloat16), for the methods of this evaluation "
      "and later ones; empty: none");
    f("hidden_cache_gb", hidden_cache_gb, "most of the disk that one file of hidden_cache may take")
        .above(0)
        .unit("GB");
    f("shots_from", shots_from,
      "training set the solved examples of prompt.shots come from; empty: the first of data.train");
  }
};

}  // namespace ctxc
