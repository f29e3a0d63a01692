// The kernels as functions over raw pointers: no CUDA and no LibTorch type, so that the .cu files build in
// seconds and the same files, compiled as C++, run on the CPU in tests. Every function returns a cudaError_t
// (0 = started) and does nothing for empty work. Pointers are device pointers of one device, tensors
// contiguous, sizes up to 2^63 elements.
#pragma once
#include <cstdint>

namespace ctxc::cuda {

using Stream = void*;  // a cudaStream_t
/// Of elements; sums are float32, for kFloat64 float64: "wide" below.
enum class Type { kFloat32, kFloat64, kBFloat16 };

const char* error_text(int code);

/// N windows of W rows and K columns.
struct SinkhornSize {
  int64_t windows;
  int rows, columns, iterations;
  double epsilon;
};
/// cost, plan [N, W, K] of `type`; a [N, W], b [N, K], u [N, T, W], v [N, T, K] wide (u, v of every
/// iteration).
int sinkhorn_forward(Type type, const void* cost, const void* a, const void* b, void* plan, void* u, void* v,
                     SinkhornSize size, Stream stream);
/// grad_cost [N, W, K] and grad_a [N, W] are wide; grad_plan is of `type`.
int sinkhorn_backward(Type type, const void* grad_plan, const void* cost, const void* a, const void* b,
                      const void* u, const void* v, void* grad_cost, void* grad_a, SinkhornSize size,
                      Stream stream);

constexpr int kMostStates = 160;
/// S hidden states [P, D] of one type, each where it is.
struct StateList {
  const void* state[kMostStates];
  int count;
};
/// out [P, D] = sum_l weights[p, l] h_l; row p of weights begins at p * weight_stride (0: the same for all).
/// Wide.
int weighted_states(Type type, const StateList& states, const void* weights, int64_t weight_stride, void* out,
                    int64_t tokens, int width, Stream stream);
/// out [P, S] = g . h_l. Wide.
int state_products(Type type, const StateList& states, const void* g, void* out, int64_t tokens, int width,
                   Stream stream);
/// weights [P, S] = softmax_l(scale (pull . h_l + offset_l)), mixed [P, D] = sum_l weights_l h_l. Wide.
int depth_gate_mix(Type type, const StateList& states, const void* pull, const void* offset, double scale,
                   void* weights, void* mixed, int64_t tokens, int width, Stream stream);
/// grad_weights may be null (0). grad_offset [P, S], grad_pull [P, D]. Wide.
int depth_gate_mix_backward(Type type, const StateList& states, const void* grad_mixed,
                            const void* grad_weights, const void* weights, double scale, void* grad_offset,
                            void* grad_pull, int64_t tokens, int width, Stream stream);

/// logits [C, V] of `type`, in place where `gradient`: exp(l - max) - z [j == target]. loss = max + log z -
/// l_target and z = sum exp(l - max), [C], wide. A target outside of the vocabulary gives NaN.
int cross_entropy_rows(Type type, void* logits, const int64_t* target, void* loss, void* z, int64_t rows,
                       int64_t vocabulary, bool gradient, Stream stream);
/// loss [C] = tau^2 sum p_T (log p_T - log p_S) of logits over tau, wide, or with `reverse` student and
/// teacher exchanged; student logits [C, V] become its gradient where `gradient`.
int kl_rows(Type type, void* student, const void* teacher, double tau, bool reverse, void* loss, int64_t rows,
            int64_t vocabulary, bool gradient, Stream stream);

/// y = w x / sqrt(mean(x^2) + eps) for rows x [R, D]; weight [D] of `weight_type` (that of x, or wide);
/// inverse [R] wide.
int rms_norm_forward(Type type, Type weight_type, const void* x, const void* weight, double eps, void* y,
                     void* inverse, int64_t rows, int width, Stream stream);
/// grad_x for a constant weight.
int rms_norm_backward(Type type, Type weight_type, const void* grad_y, const void* x, const void* weight,
                      const void* inverse, void* grad_x, int64_t rows, int width, Stream stream);
/// Rotates q [P, H, E] and k [P, G, E] (rotate-half) by angles whose cosines and sines are [P, E / 2] of
/// `type`; with direction -1 back.
int rope_qk(Type type, const void* q, const void* k, const void* cos, const void* sin, void* q_out,
            void* k_out, int64_t tokens, int q_heads, int k_heads, int head_width, int direction,
            Stream stream);

/// Least amplitude of the noise that a predicted clean latent's epshat is divided by.
constexpr double kLeastNoise = 1e-4;
/// R rows of D elements of a latent; a log-SNR for each row [R] or (`each`) for each element [R, D]. Log-SNRs
/// and their gradients are wide.
struct LatentSize {
  int64_t rows;
  int width;
  bool each;
};
/// z = sqrt(abar) clean + sqrt(1 - abar) eps; eps may be null (0).
int diffuse(Type type, const void* clean, const void* log_snr, const void* eps, void* z, LatentSize size,
            Stream stream);
int diffuse_backward(Type type, const void* grad_z, const void* clean, const void* log_snr, const void* eps,
                     void* grad_clean, void* grad_log_snr, LatentSize size, Stream stream);
/// The clean estimate and z at the next level; next_log_snr and next are null in the last step.
int ddim_update(Type type, const void* z, const void* predicted, const void* log_snr,
                const void* next_log_snr, bool velocity, void* clean, void* next, LatentSize size,
                Stream stream);
/// grad_clean may be null (0); grad_next, next_log_snr and grad_next_log_snr are null without a next level.
struct DdimGradients {
  const void *grad_clean, *grad_next, *z, *predicted, *log_snr, *next_log_snr;
  void *grad_z, *grad_predicted, *grad_log_snr, *grad_next_log_snr;
};
int ddim_update_backward(Type type, const DdimGradients& io, bool velocity, LatentSize size, Stream stream);

}  // namespace ctxc::cuda
