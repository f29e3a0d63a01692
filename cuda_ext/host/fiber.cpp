#include "cuda_ext/host/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__x86_64__)
// Callee-saved registers go onto the stack that is left and come from the one that is entered.
extern "C" void ctxc_switch_stack(void** save, void* load);
asm(R"(
.text
.globl ctxc_switch_stack
.type ctxc_switch_stack,@function
ctxc_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size ctxc_switch_stack,.-ctxc_switch_stack
)");
#endif

namespace ctxc::cuda::host {
namespace {

constexpr size_t kPage = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStack = 64 * kPage;  // instrumented frames are larger
#else
constexpr size_t kStack = 16 * kPage;
#endif

}  // namespace

struct Fiber::State {
  Entry entry = nullptr;
  void* argument = nullptr;
  char* stack = nullptr;
  size_t bytes = 0;
#if defined(__x86_64__)
  void* own = nullptr;  // stack pointers while not running
  void* caller = nullptr;
#else
  ucontext_t own, caller;
#endif
  // What AddressSanitizer must know of the stack that is entered; unused elsewhere.
  void* own_frames = nullptr;
  void* caller_frames = nullptr;
  const void* caller_bottom = nullptr;
  size_t caller_bytes = 0;

  void enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&caller_frames, stack, bytes);
#endif
#if defined(__x86_64__)
    ctxc_switch_stack(&caller, own);
#else
    swapcontext(&caller, &own);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(caller_frames, nullptr, nullptr);
#endif
  }

  void exit(bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &own_frames, caller_bottom, caller_bytes);
#endif
    (void)for_good;
#if defined(__x86_64__)
    ctxc_switch_stack(&own, caller);
#else
    swapcontext(&own, &caller);
#endif
    arrived();
  }

  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(own_frames, &caller_bottom, &caller_bytes);
#endif
  }

  static thread_local State* starting;
  static void trampoline() {
    State* self = starting;
    self->own_frames = nullptr;
    self->arrived();
    self->entry(self->argument);
    self->exit(/*for_good=*/true);
    std::abort();  // an ended fiber was resumed
  }
};

thread_local Fiber::State* Fiber::State::starting = nullptr;

Fiber::Fiber() : state_(std::make_unique<State>()) {}
Fiber::~Fiber() = default;
Fiber::Fiber(Fiber&&) noexcept = default;
Fiber& Fiber::operator=(Fiber&&) noexcept = default;

void Fiber::start(char* stack, size_t bytes, Entry entry, void* argument) {
  State& s = *state_;
  s.entry = entry;
  s.argument = argument;
  s.stack = stack;
  s.bytes = bytes;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, bytes);  // frames that were left for good never cleaned up
#endif
#if defined(__x86_64__)
  // As if trampoline() had been called (16-byte alignment before its return address) and had been left at
  // once.
  const auto top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15};
  void** pointer = reinterpret_cast<void**>(top);
  *--pointer = nullptr;
  *--pointer = reinterpret_cast<void*>(&State::trampoline);
  for (int saved = 0; saved < 6; ++saved) *--pointer = nullptr;
  s.own = pointer;
#else
  getcontext(&s.own);
  s.own.uc_stack.ss_sp = stack;
  s.own.uc_stack.ss_size = bytes;
  s.own.uc_link = nullptr;
  makecontext(&s.own, &State::trampoline, 0);
#endif
}

void Fiber::resume() {
  State::starting = state_.get();
  state_->enter();
}

void Fiber::leave() {
  state_->exit(/*for_good=*/false);
}

Stacks::~Stacks() {
  if (mapping_) munmap(mapping_, count_ * (kStack + kPage));
}

void Stacks::reserve(size_t count) {
  if (count <= count_) return;
  if (mapping_) munmap(mapping_, count_ * (kStack + kPage));
  mapping_ = nullptr;
  void* mapping = mmap(nullptr, count * (kStack + kPage), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(mapping);
  count_ = count;
  for (size_t i = 0; i < count; ++i) mprotect(mapping_ + i * (kStack + kPage), kPage, PROT_NONE);
}

char* Stacks::stack(size_t index) const {
  return mapping_ + index * (kStack + kPage) + kPage;
}

size_t Stacks::bytes() {
  return kStack;
}

}  // namespace ctxc::cuda::host
