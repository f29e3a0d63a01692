// A fiber: a function on a stack of its own that can be left in the middle and entered again. One OS thread
// runs all of them, one at a time. On x86-64 a switch is a dozen instructions (about 10 ns); elsewhere
// ucontext (about 20 times that).
#pragma once
#include <cstddef>
#include <memory>

namespace ctxc::cuda::host {

class Fiber {
 public:
  using Entry = void (*)(void* argument);
  Fiber();
  ~Fiber();
  Fiber(Fiber&&) noexcept;
  Fiber& operator=(Fiber&&) noexcept;
  /// Makes the next resume() call entry(argument) on this stack. What ran there before is forgotten.
  void start(char* stack, size_t bytes, Entry entry, void* argument);
  /// Runs the fiber until it leaves or ends. Not from inside a fiber.
  void resume();
  /// Called inside the fiber: back to where resume() was called.
  void leave();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Equal stacks in one mapping, each above a page that may not be touched: a kernel that overflows its stack
/// stops there.
class Stacks {
 public:
  Stacks() = default;
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  /// At least `count` stacks; those already there stay.
  void reserve(size_t count);
  char* stack(size_t index) const;  ///< lowest usable byte
  static size_t bytes();            ///< of one stack

 private:
  char* mapping_ = nullptr;
  size_t count_ = 0;
};

}  // namespace ctxc::cuda::host
