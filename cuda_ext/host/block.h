// Runs CUDA kernels on the CPU: one fiber per CUDA thread, the blocks of a grid one after another. What CUDA
// leaves undefined is an error here:
//   - __syncthreads that part of a block does not reach, or reaches at another line;
//   - a warp operation whose mask lacks the caller, whose lanes do not all come, come with different masks or
//   from
//     different lines, or that reads a lane outside of the mask or beyond the block;
//   - more threads, shared memory or blocks than sm_80 has.
// Shared memory holds NaN (all bits set) before a block starts. The order in which warps and lanes run is
// first to last, or, with a schedule seed, drawn: a barrier that is missing lets some order read what is not
// yet written, or no longer there. Not modelled: races between two barriers that no order of whole steps
// shows, the memory model between blocks, time.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda_ext/host/fiber.h"

namespace ctxc::cuda::host {

/// A kernel did what CUDA does not define, or asked for more than the device has.
class KernelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
  uint64_t count() const { return uint64_t{x} * y * z; }
};

constexpr unsigned kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// What a lane asks of its warp.
enum class WarpOp { kSync, kIndex, kUp, kDown, kXor };

class Block {
 public:
  using Where = std::source_location;
  Block(Dim3 grid, Dim3 block, size_t dynamic_bytes, const std::function<void()>& body, Stacks& stacks);
  /// One block from start to end. Throws KernelError, or what a thread threw.
  void run(Dim3 block_index, uint64_t seed);

  /// The block whose thread is running.
  static Block& current();
  const Dim3& grid_dim() const { return grid_; }
  const Dim3& block_dim() const { return block_; }
  const Dim3& block_index() const { return block_index_; }
  const Dim3& thread_index() const { return threads_[running_].index; }
  unsigned lane() const { return running_ % kWarp; }

  void barrier(Where where);
  /// Posts `bits`, waits for the lanes of `mask`, returns what the lane that (op, operand, width) names has
  /// posted.
  uint64_t exchange(WarpOp op, unsigned mask, uint64_t bits, int operand, int width, Where where);
  /// Memory of the block that `tag` names, made at the first call.
  void* shared(const void* tag, size_t bytes);
  void* dynamic_shared();

 private:
  enum class Wait { kReady, kBarrier, kWarp, kDone };
  struct Thread {
    Fiber fiber;
    Dim3 index;
    Wait wait = Wait::kReady;
    Where where;
    WarpOp op = WarpOp::kSync;
    unsigned mask = 0;
    int operand = 0, width = 0;
    uint64_t bits = 0, result = 0;
  };
  static void enter(void* block);
  void start_threads();
  void run_to_barrier(std::vector<unsigned>& order);
  bool run_warp(unsigned warp);
  bool release_warp(unsigned warp);
  bool release_barrier();
  void resolve(unsigned warp, unsigned members);
  unsigned lanes(unsigned warp) const;
  uint64_t draw();
  std::string standstill() const;

  Dim3 grid_, block_, block_index_;
  const std::function<void()>& body_;
  Stacks& stacks_;
  std::vector<Thread> threads_;
  unsigned running_ = 0;
  std::vector<unsigned char> dynamic_;
  std::unordered_map<const void*, std::vector<unsigned char>> shared_;
  size_t shared_bytes_ = 0;
  uint64_t random_ = 0;  // 0: first to last
  std::exception_ptr failure_;
};

/// Every block of the grid, in the order of the schedule seed. Throws KernelError on a launch CUDA would
/// refuse.
void run_grid(Dim3 grid, Dim3 block, size_t dynamic_bytes, const std::function<void()>& body);

/// The seed of launches while the object lives; 0 = first to last.
class ScheduleSeed {
 public:
  explicit ScheduleSeed(uint64_t seed);
  ~ScheduleSeed();
  ScheduleSeed(const ScheduleSeed&) = delete;
  ScheduleSeed& operator=(const ScheduleSeed&) = delete;

 private:
  uint64_t before_;
};

/// Dynamic shared memory above 48 KiB must be asked for, kernel by kernel.
void allow_dynamic_shared(const void* kernel, size_t bytes);
size_t allowed_dynamic_shared(const void* kernel);

}  // namespace ctxc::cuda::host
