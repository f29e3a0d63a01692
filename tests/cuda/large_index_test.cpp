// Offsets beyond 2^31 elements: one block far down a tensor that is mapped but mostly never touched.
#include <sys/mman.h>

#include "kernel_testing.h"

// The kernels themselves: nothing but a single block can be run on tensors of this size here.
#include "cuda_ext/depth_mix.cuh"
#include "cuda_ext/diffusion_step.cuh"
#include "cuda_ext/norm_rope.cuh"
#include "cuda_ext/sinkhorn.cuh"
#include "cuda_ext/vocabulary_loss.cuh"

namespace ctxc::cuda {
namespace {

/// Zeros that take address space only.
template <class T>
class Sparse {
 public:
  explicit Sparse(int64_t elements) : bytes_(static_cast<size_t>(elements) * sizeof(T)) {
    void* mapping =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping != MAP_FAILED) data_ = static_cast<T*>(mapping);
  }
  ~Sparse() {
    if (data_) munmap(data_, bytes_);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  T* data() const { return data_; }
  T& operator[](int64_t index) const { return data_[index]; }

 private:
  T* data_ = nullptr;
  size_t bytes_;
};

#define NEEDS(memory) \
  if (!(memory).data()) GTEST_SKIP() << "no address space of this size"

/// Runs one block of the grid.
void run_one(unsigned index, unsigned blocks, unsigned threads, size_t dynamic_bytes,
             const std::function<void()>& body) {
  host::Stacks stacks;
  stacks.reserve(threads);
  host::Block(dim3(blocks), dim3(threads), dynamic_bytes, body, stacks).run({index, 0, 0}, 0);
}

constexpr int kWidth = 4096;
constexpr unsigned kRow = 600000;  // its first element is number 2 457 600 000

TEST(LargeIndex, RmsNorm) {
  const Sparse<float> x(int64_t{kRow + 1} * kWidth), y(int64_t{kRow + 1} * kWidth), inverse(kRow + 1),
      weight(kWidth);
  NEEDS(x);
  NEEDS(y);
  const int64_t first = int64_t{kRow} * kWidth;
  for (int c = 0; c < kWidth; ++c) x[first + c] = 2, weight[c] = 3;
  run_one(kRow, kRow + 1, kNormThreads, 0, [&] {
    rms_norm_forward_kernel<float, float, 4>(x.data(), weight.data(), 0, y.data(), inverse.data(), kWidth);
  });
  EXPECT_FLOAT_EQ(y[first], 3);
  EXPECT_FLOAT_EQ(y[first + kWidth - 1], 3);
  const Sparse<float> grad(int64_t{kRow + 1} * kWidth);
  NEEDS(grad);
  grad[first + 5] = 1;
  run_one(kRow, kRow + 1, kNormThreads, 0, [&] {
    rms_norm_backward_kernel<float, float, 4>(grad.data(), x.data(), weight.data(), inverse.data(), y.data(),
                                              kWidth);
  });
  EXPECT_NEAR(y[first + 5], 1.5 * (1 - 1.0 / kWidth), 1e-6);
  EXPECT_NEAR(y[first + 6], -1.5 / kWidth, 1e-8);
}

TEST(LargeIndex, Rope) {
  const int64_t first = int64_t{kRow} * kWidth, half = 64;
  const Sparse<float> q(first + kWidth), out(first + kWidth), k(int64_t{kRow + 1} * 1024),
      k_out(int64_t{kRow + 1} * 1024), cos(int64_t{kRow + 1} * half), sin(int64_t{kRow + 1} * half);
  NEEDS(q);
  NEEDS(out);
  q[first + 31 * 128] = 1;
  sin[int64_t{kRow} * half] = 1;  // a quarter turn
  run_one(kRow, kRow + 1, kRopeThreads, 0, [&] {
    rope_qk_kernel<float, 4>(q.data(), k.data(), cos.data(), sin.data(), out.data(), k_out.data(), 32, 8, 64,
                             1);
  });
  EXPECT_EQ(out[first + 31 * 128 + 64], 1);
}

TEST(LargeIndex, DepthMix) {
  const int64_t first = int64_t{kRow} * kWidth;
  const Sparse<float> state(first + kWidth), pull(first + kWidth), mixed(first + kWidth), offset(kRow + 1),
      weights(kRow + 1);
  NEEDS(state);
  NEEDS(pull);
  NEEDS(mixed);
  state[first + 4095] = 5;
  StateList states{};
  states.state[0] = state.data();
  states.count = 1;
  run_one(kRow, kRow + 1, kDepthThreads, 0, [&] {
    depth_gate_mix_kernel<float, 4>(states, pull.data(), offset.data(), 1, weights.data(), mixed.data(),
                                    kRow + 1, kWidth);
  });
  EXPECT_EQ(weights[kRow], 1);
  EXPECT_EQ(mixed[first + 4095], 5);
}

TEST(LargeIndex, VocabularyLoss) {
  constexpr int64_t kVocabulary = 128256;
  constexpr unsigned kLast = 20000;  // its first logit is number 2 565 120 000
  const int64_t first = kLast * kVocabulary;
  const Sparse<bfloat16> logits(first + kVocabulary);
  const Sparse<int64_t> target(kLast + 1);
  const Sparse<float> loss(kLast + 1), z(kLast + 1);
  NEEDS(logits);
  target[kLast] = kVocabulary - 1;
  run_one(kLast, kLast + 1, kVocabularyThreads, 0, [&] {
    cross_entropy_rows_kernel<bfloat16, 8>(logits.data(), target.data(), loss.data(), z.data(), kVocabulary,
                                           true);
  });
  EXPECT_NEAR(loss[kLast], std::log(static_cast<double>(kVocabulary)), 1e-4);
  EXPECT_EQ(wide(logits[first]), 1);
  EXPECT_NEAR(wide(logits[first + kVocabulary - 1]), 1 - kVocabulary, 512);
}

TEST(LargeIndex, DiffusionStep) {
  const int64_t first = int64_t{kRow} * kWidth;  // kRow is a multiple of the rows of a block
  const Sparse<float> z(first + kWidth), predicted(first + kWidth), clean(first + kWidth),
      next(first + kWidth), level(kRow + 1), grad_level(kRow + 1);
  NEEDS(z);
  NEEDS(predicted);
  NEEDS(clean);
  NEEDS(next);
  z[first + 4095] = 2;
  const unsigned block = kRow / kDiffusionRows;
  const float half = std::sqrt(0.5f);
  run_one(block, block + 1, kDiffusionThreads, 0, [&] {
    ddim_update_kernel<float, 4, false>(z.data(), predicted.data(), level.data(), level.data(), true,
                                        clean.data(), next.data(), kRow + 1, kWidth);
  });
  EXPECT_FLOAT_EQ(clean[first + 4095], 2 * half);
  EXPECT_FLOAT_EQ(next[first + 4095], 2);
  run_one(block, block + 1, kDiffusionThreads, 0, [&] {
    diffuse_kernel<float, 4, false>(z.data(), level.data(), nullptr, next.data(), kRow + 1, kWidth);
  });
  EXPECT_FLOAT_EQ(next[first + 4095], 2 * half);
  predicted[first + 4095] = 1;  // as the gradient of z and of the estimate
  run_one(block, block + 1, kDiffusionThreads, 0, [&] {
    diffuse_backward_kernel<float, 4, false>(predicted.data(), z.data(), level.data(), nullptr, clean.data(),
                                             grad_level.data(), kRow + 1, kWidth);
  });
  EXPECT_FLOAT_EQ(clean[first + 4095], half);
  EXPECT_FLOAT_EQ(grad_level[kRow], half / 2);
  run_one(block, block + 1, kDiffusionThreads, 0, [&] {
    ddim_update_backward_kernel<float, 4, false>({.grad_clean = predicted.data(),
                                                  .grad_next = nullptr,
                                                  .z = z.data(),
                                                  .predicted = z.data(),
                                                  .log_snr = level.data(),
                                                  .next_log_snr = nullptr,
                                                  .velocity = true,
                                                  .grad_z = clean.data(),
                                                  .grad_predicted = next.data(),
                                                  .grad_log_snr = grad_level.data(),
                                                  .grad_next_log_snr = nullptr,
                                                  .rows = kRow + 1,
                                                  .width = kWidth});
  });
  EXPECT_FLOAT_EQ(clean[first + 4095], half);
  EXPECT_FLOAT_EQ(next[first + 4095], -half);
  EXPECT_FLOAT_EQ(grad_level[kRow], half);
}

TEST(LargeIndex, Sinkhorn) {
  constexpr int kRows = 128, kColumns = 32, kIterations = 2;
  constexpr unsigned kWindow = 550000;  // its first cost is number 2 252 800 000
  const int64_t cells = kRows * kColumns;
  const Sparse<float> cost((kWindow + 1) * cells), plan((kWindow + 1) * cells),
      a(int64_t{kWindow + 1} * kRows), b(int64_t{kWindow + 1} * kColumns),
      u(int64_t{kWindow + 1} * kRows * kIterations), v(int64_t{kWindow + 1} * kColumns * kIterations);
  NEEDS(cost);
  NEEDS(plan);
  for (int i = 0; i < kRows; ++i) a[int64_t{kWindow} * kRows + i] = 1.f / kRows;
  for (int j = 0; j < kColumns; ++j) b[int64_t{kWindow} * kColumns + j] = 1.f / kColumns;
  run_one(kWindow, kWindow + 1, kSinkhornThreads,
          sizeof(float) * (2 * (kRows + kColumns) + kRows * (kColumns | 1)), [&] {
            sinkhorn_forward_kernel<float, true>({cost.data(), a.data(), b.data(), plan.data(), u.data(),
                                                  v.data(), kRows, kColumns, kIterations, 0.1f});
          });
  EXPECT_NEAR(plan[kWindow * cells + cells - 1], 1.0 / cells, 1e-8);
}

}  // namespace
}  // namespace ctxc::cuda
