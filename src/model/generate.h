// Batched decoding with the frozen backbone: greedy, or sampled with counter-based randomness (a prompt's
// tokens depend on the seed and its place in the call, not on the batch around it or on threads). The prompt
// is read with the packed path (a memory's slots once for all its prompts), then one column a step with a KV
// cache; only the last position ever gets logits; rows that ended leave the batch.
#pragma once
#include <cstdint>
#include <vector>

#include "data/prompt.h"
#include "model/backbone.h"
#include "model/memory.h"

namespace ctxc {

struct GenerateOptions {
  int64_t max_new_tokens = 32;
  std::vector<int64_t> eos = {};  ///< ids that end a row; none = always max_new_tokens
  double temperature = 0;         ///< 0 = greedy
  int64_t top_k = 0;              ///< sample among the k likeliest; 0 = all
  double top_p = 1;               ///< and among the fewest whose probabilities reach p
  uint64_t seed = 0;
  bool want_step_logits = false;
};

/// Ids that end an answer: those of the base, and the one that the prompt's answers end with.
std::vector<int64_t> ending_ids(const Backbone& backbone, const Prompt& prompt);

struct GenerateResult {
  std::vector<Tokens> tokens;  ///< per prompt, the ending token included
  Tensor step_logits_BTV;      ///< with want_step_logits: [prompts, steps, V]; zeros after a row ended
  int64_t steps = 0;           ///< decoding steps until all rows had ended
  double prefill_seconds = 0;  ///< of the time taken: until the first token could be chosen
  double decode_seconds = 0;   ///< from there to the last token
  std::vector<double> nll;     ///< per target: mean -log p of its tokens; empty without targets
};

/// Goes on after row `rows[i]` of the memory and the text `prompts[i]`. Where there are `targets`, one for
/// each prompt and none empty, also says how likely they were to follow: a prompt is read once for both.
GenerateResult generate(const Backbone& backbone, const Memory& memory, const std::vector<int64_t>& rows,
                        const std::vector<Tokens>& prompts, const GenerateOptions& options,
                        const std::vector<Tokens>& targets = {});

/// Goes on after plain texts; none may be empty.
GenerateResult generate(const Backbone& backbone, const std::vector<Tokens>& prompts,
                        const GenerateOptions& options);

/// The same from a padded batch of input embeddings at given positions, through the padded path alone: the
/// oracle of the others, and what `ctxc-inspect trace` shows. New tokens stand behind the last column, at
/// positions that go on from the row's highest real one. The last column of every row must be real (left
/// padding).
GenerateResult generate_padded(const Backbone& backbone, const Tensor& embeds_BTD, const Tensor& mask_BT,
                               const Tensor& positions_BT, const GenerateOptions& options);

/// [B, steps] int64; rows that ended early are filled with `pad`.
Tensor padded_tokens(const GenerateResult& result, int64_t pad);

}  // namespace ctxc
