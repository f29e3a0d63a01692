// Buffers of a per-document compiler: where their input embeddings start, where they stand in the compile
// pass, and what they see.
#pragma once
#include <string>

#include "data/tokenizer.h"
#include "model/backbone.h"

namespace ctxc {

/// [K, D] float32 input embeddings from the context's, block i = tokens [i L / K, (i+1) L / K):
///   mean_pool     mean of the block, rescaled to the mean norm of its rows
///   strided       the block's last token
///   sample_vocab  random rows of the vocabulary
///   normal        normal with the standard deviation of the embedding matrix
Tensor initial_buffers(const std::string& init, const Backbone& backbone, const Tokens& context,
                       int64_t count, uint64_t seed);

/// Buffer i in the frame of the compile pass, behind `prefix` rows and L context tokens:
///   tail     prefix + L + i
///   spread   prefix + floor((i + 1/2) L / K);   masked: at the end of its block, prefix + ceil((i+1) L / K)
///   - 1
struct BufferFrame {
  Tensor position_K;  ///< int64
  Tensor mask_KS;     ///< bool [K, prefix + L + K]; undefined = everything in front, causal among buffers
};
BufferFrame buffer_frame(const std::string& place, bool masked, int64_t prefix, int64_t length,
                         int64_t count);

}  // namespace ctxc
