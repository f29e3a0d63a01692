// A Llama small enough that a test can run it many times, and tokens for it.
#pragma once
#include <gtest/gtest.h>

#include "core/random.h"
#include "data/tokenizer.h"
#include "model/backbone.h"

namespace ctxc::testing {

inline LlamaConfig tiny_llama() {
  LlamaConfig config;
  config.vocab_size = 96;
  config.hidden_size = 32;
  config.num_layers = 3;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 48;
  config.max_position = 512;
  config.tie_word_embeddings = true;
  config.initializer_range = 0.2;  // large enough that attention and MLP matter in a random model
  config.bos = 1;
  config.eos = {2};
  return config;
}

inline Tokens random_tokens(int64_t count, uint64_t index) {
  CounterRng rng(11, "tests", 0, index);
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<TokenId>(3 + rng.below(90)));
  return tokens;
}

inline Tensor ids_of(const Tokens& tokens) {
  return at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()), at::kLong);
}

/// Numbers in [-1, 1) that depend on `index` alone.
inline Tensor random_tensor(at::IntArrayRef shape, uint64_t index) {
  Tensor tensor = at::empty(shape, at::kFloat);
  CounterRng rng(13, "tests", 1, index);
  float* values = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(2 * rng.uniform() - 1);
  return tensor;
}

/// max |a - b| / max |b|.
inline double relative_error(const Tensor& found, const Tensor& expected) {
  EXPECT_EQ(found.sizes(), expected.sizes());
  if (found.sizes() != expected.sizes() || expected.numel() == 0) return expected.numel() == 0 ? 0 : 1e30;
  const Tensor wide = expected.to(at::kDouble);
  const double error = (found.detach().to(at::kDouble) - wide).abs().max().item<double>();
  return error / std::max(wide.abs().max().item<double>(), 1e-30);
}

/// One packed row of plain text, alone.
inline PackedRows packed_text(const Backbone& backbone, const Tokens& tokens, int64_t first_position = 0) {
  const int64_t length = static_cast<int64_t>(tokens.size());
  return {.embeds_PD = backbone.embed(ids_of(tokens)),
          .positions_P = at::arange(first_position, first_position + length, at::kLong),
          .segments = {{.length = length, .mask_TS = {}, .prefix_row = -1}},
          .prefix = {},
          .prefix_mask_BK = {}};
}

}  // namespace ctxc::testing
