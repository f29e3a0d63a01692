#include "cuda_ext/host/block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

namespace ctxc::cuda::host {
namespace {

constexpr uint64_t kMostThreads = 1024;
constexpr size_t kMostShared = 163 * 1024;  // of a block on sm_80; sm_90 has 227 KiB
constexpr size_t kUnaskedShared = 48 * 1024;

thread_local Block* current_block = nullptr;
thread_local uint64_t schedule_seed = 0;

std::string text(const Block::Where& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

bool same(const Block::Where& x, const Block::Where& y) {
  return x.line() == y.line() && x.column() == y.column() && std::strcmp(x.file_name(), y.file_name()) == 0;
}

void check(bool condition, const std::string& message) {
  if (!condition) throw KernelError(message);
}

/// splitmix64 (Steele, Lea and Flood, 2014).
uint64_t mix(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// The lane whose value `lane` receives ("Warp Shuffle Functions" of the CUDA C++ Programming Guide).
unsigned source_lane(WarpOp op, unsigned lane, int operand, int width) {
  const int w = width, own = static_cast<int>(lane), first = own & ~(w - 1);
  switch (op) {
    case WarpOp::kIndex:
      return static_cast<unsigned>(first | (operand & (w - 1)));
    case WarpOp::kUp:
      return static_cast<unsigned>(own - operand < first ? own : own - operand);
    case WarpOp::kDown:
      return static_cast<unsigned>(own + operand >= first + w ? own : own + operand);
    case WarpOp::kXor:
      return static_cast<unsigned>((own ^ operand) >= first + w ? own : own ^ operand);
    case WarpOp::kSync:
      break;
  }
  return lane;
}

std::unordered_map<const void*, size_t>& dynamic_limits() {
  static std::unordered_map<const void*, size_t> limits;
  return limits;
}

}  // namespace

Block::Block(Dim3 grid, Dim3 block, size_t dynamic_bytes, const std::function<void()>& body, Stacks& stacks)
    : grid_(grid),
      block_(block),
      body_(body),
      stacks_(stacks),
      threads_(block.count()),
      dynamic_(dynamic_bytes + 15) {
  for (unsigned i = 0; i < threads_.size(); ++i)
    threads_[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
}

Block& Block::current() {
  if (!current_block) throw KernelError("a device function was called outside of a kernel");
  return *current_block;
}

unsigned Block::lanes(unsigned warp) const {
  return std::min<unsigned>(kWarp, static_cast<unsigned>(threads_.size()) - warp * kWarp);
}

uint64_t Block::draw() {
  return random_ == 0 ? 0 : mix(random_);
}

void Block::enter(void* pointer) {
  Block& block = *static_cast<Block*>(pointer);
  try {
    block.body_();
  } catch (...) {
    block.failure_ = std::current_exception();
  }
  block.threads_[block.running_].wait = Wait::kDone;
}

void Block::start_threads() {
  for (size_t i = 0; i < threads_.size(); ++i) {
    threads_[i].wait = Wait::kReady;
    threads_[i].fiber.start(stacks_.stack(i), Stacks::bytes(), &Block::enter, this);
  }
  std::fill(dynamic_.begin(), dynamic_.end(), 0xff);
  shared_.clear();
  shared_bytes_ = dynamic_.size() - 15;
  failure_ = nullptr;
}

void Block::run(Dim3 block_index, uint64_t seed) {
  block_index_ = block_index;
  random_ = seed;
  start_threads();
  struct Current {
    explicit Current(Block* block) { current_block = block; }
    ~Current() { current_block = nullptr; }
  } const current(this);
  std::vector<unsigned> order((threads_.size() + kWarp - 1) / kWarp);
  std::iota(order.begin(), order.end(), 0u);
  for (;;) {
    run_to_barrier(order);
    if (std::all_of(threads_.begin(), threads_.end(), [](const Thread& t) { return t.wait == Wait::kDone; }))
      return;
    check(release_barrier(), standstill());
  }
}

/// Runs all warps until none can go on: one stop each in turn, or, in every other drawn order, one warp after
/// the other as far as it gets, so that some are far ahead of the rest.
void Block::run_to_barrier(std::vector<unsigned>& order) {
  const bool alone = draw() % 2 == 1;
  for (bool moved = true; moved;) {
    moved = false;
    if (random_ != 0)
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
    for (const unsigned warp : order)
      while (run_warp(warp)) {
        moved = true;
        if (!alone) break;
      }
  }
}

bool Block::run_warp(unsigned warp) {
  const unsigned count = lanes(warp), first = static_cast<unsigned>(draw() % kWarp),
                 step = static_cast<unsigned>(draw() % kWarp) | 1;  // odd: every lane once
  bool moved = false;
  for (unsigned turn = 0; turn < kWarp; ++turn) {
    const unsigned lane = (first + turn * step) % kWarp;
    if (lane >= count || threads_[warp * kWarp + lane].wait != Wait::kReady) continue;
    running_ = warp * kWarp + lane;
    threads_[running_].fiber.resume();
    if (failure_) std::rethrow_exception(failure_);
    moved = true;
  }
  return release_warp(warp) || moved;
}

/// Lets go every group of lanes that has gathered at a warp operation.
bool Block::release_warp(unsigned warp) {
  bool released = false;
  const unsigned base = warp * kWarp, count = lanes(warp);
  for (unsigned lane = 0; lane < count; ++lane) {
    if (threads_[base + lane].wait != Wait::kWarp) continue;
    const unsigned mask = threads_[base + lane].mask;
    unsigned here = 0, gone = 0;
    for (unsigned other = 0; other < count; ++other) {
      if (!(mask >> other & 1)) continue;
      here |= unsigned{threads_[base + other].wait == Wait::kWarp && threads_[base + other].mask == mask}
              << other;
      gone |= unsigned{threads_[base + other].wait == Wait::kDone} << other;
    }
    const unsigned expected = count == kWarp ? mask : mask & ((1u << count) - 1);
    if ((here | gone) != expected) continue;  // some are on their way (or will never come: a standstill)
    resolve(warp, here);
    for (unsigned other = 0; other < count; ++other)
      if (here >> other & 1) threads_[base + other].wait = Wait::kReady;
    released = true;
  }
  return released;
}

void Block::resolve(unsigned warp, unsigned members) {
  const unsigned base = warp * kWarp;
  const Thread& leader = threads_[base + static_cast<unsigned>(std::countr_zero(members))];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(members >> lane & 1)) continue;
    Thread& thread = threads_[base + lane];
    check(same(thread.where, leader.where) && thread.op == leader.op,
          "the lanes of a warp meet in different operations: " + text(thread.where) + " and " +
              text(leader.where));
    if (thread.op == WarpOp::kSync) continue;
    const unsigned source = source_lane(thread.op, lane, thread.operand, thread.width);
    check(source < kWarp && (members >> source & 1), text(thread.where) + ": lane " + std::to_string(lane) +
                                                         " reads lane " + std::to_string(source) +
                                                         ", which takes no part");
    thread.result = threads_[base + source].bits;
  }
}

bool Block::release_barrier() {
  const Thread& leader = threads_.front();
  for (const Thread& thread : threads_) {
    if (thread.wait != Wait::kBarrier) return false;
    check(same(thread.where, leader.where), "the threads of a block wait at different barriers: " +
                                                text(leader.where) + " and " + text(thread.where));
  }
  for (Thread& thread : threads_) thread.wait = Wait::kReady;
  return true;
}

std::string Block::standstill() const {
  unsigned barrier = 0, warp = 0, done = 0;
  std::string at;
  for (const Thread& thread : threads_) {
    barrier += thread.wait == Wait::kBarrier;
    warp += thread.wait == Wait::kWarp;
    done += thread.wait == Wait::kDone;
    const bool waits = thread.wait == Wait::kBarrier || thread.wait == Wait::kWarp;
    if (waits && at.find(text(thread.where)) == std::string::npos)
      at += (at.empty() ? "" : ", ") + text(thread.where);
  }
  return "divergence: no thread can go on; of " + std::to_string(threads_.size()) + " threads " +
         std::to_string(barrier) + " wait at __syncthreads, " + std::to_string(warp) +
         " at a warp operation, " + std::to_string(done) + " have returned (waiting at " + at + ")";
}

void Block::barrier(Where where) {
  Thread& thread = threads_[running_];
  thread.wait = Wait::kBarrier;
  thread.where = where;
  thread.fiber.leave();
}

uint64_t Block::exchange(WarpOp op, unsigned mask, uint64_t bits, int operand, int width, Where where) {
  Thread& thread = threads_[running_];
  check(mask >> lane() & 1, text(where) + ": the mask lacks the calling lane " + std::to_string(lane()));
  check(width > 0 && width <= static_cast<int>(kWarp) && (width & (width - 1)) == 0,
        text(where) + ": width " + std::to_string(width) + " is no power of two up to 32");
  thread.wait = Wait::kWarp;
  thread.where = where;
  thread.op = op;
  thread.mask = mask;
  thread.bits = bits;
  thread.operand = operand;
  thread.width = width;
  thread.fiber.leave();
  return thread.result;
}

void* Block::shared(const void* tag, size_t bytes) {
  auto [place, fresh] = shared_.try_emplace(tag);
  if (fresh) {
    place->second.assign(bytes + 15, 0xff);
    shared_bytes_ += bytes;
    check(shared_bytes_ <= kMostShared,
          "a block uses " + std::to_string(shared_bytes_) + " bytes of shared memory");
  }
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(place->second.data()) + 15) & ~uintptr_t{15});
}

void* Block::dynamic_shared() {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(dynamic_.data()) + 15) & ~uintptr_t{15});
}

void run_grid(Dim3 grid, Dim3 block, size_t dynamic_bytes, const std::function<void()>& body) {
  check(block.count() >= 1 && block.count() <= kMostThreads && block.z <= 64,
        "a launch with " + std::to_string(block.count()) + " threads a block (1 to 1024)");
  check(grid.count() >= 1 && grid.x <= 0x7fffffffu && grid.y <= 0xffffu && grid.z <= 0xffffu,
        "a launch with " + std::to_string(grid.count()) + " blocks (1 to 2^31 - 1 by 65535 by 65535)");
  check(dynamic_bytes <= kMostShared,
        "a launch with " + std::to_string(dynamic_bytes) + " bytes of shared memory");
  thread_local Stacks stacks;
  stacks.reserve(block.count());
  Block running(grid, block, dynamic_bytes, body, stacks);
  uint64_t seed = schedule_seed;
  std::vector<uint64_t> order(grid.count());
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (seed != 0)
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[mix(seed) % i]);
  for (const uint64_t index : order)
    running.run({static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
                 static_cast<unsigned>(index / (uint64_t{grid.x} * grid.y))},
                seed == 0 ? 0 : mix(seed) | 1);
}

ScheduleSeed::ScheduleSeed(uint64_t seed) : before_(schedule_seed) {
  schedule_seed = seed;
}
ScheduleSeed::~ScheduleSeed() {
  schedule_seed = before_;
}

void allow_dynamic_shared(const void* kernel, size_t bytes) {
  dynamic_limits()[kernel] = bytes;
}

size_t allowed_dynamic_shared(const void* kernel) {
  const auto found = dynamic_limits().find(kernel);
  return found == dynamic_limits().end() ? kUnaskedShared : std::max(found->second, kUnaskedShared);
}

}  // namespace ctxc::cuda::host
