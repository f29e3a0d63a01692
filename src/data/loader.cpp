#include "data/loader.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

namespace ctxc {

struct Loader::Impl {
  std::function<Batch(int64_t)> make;
  int64_t next, depth;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Batch> ready;
  std::exception_ptr failure;
  bool stop = false;
  double waited = 0;  ///< touched by next() and waited_seconds() alone, under the mutex
  std::thread thread;

  void work();
};

void Loader::Impl::work() {
  for (;;) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stop || static_cast<int64_t>(ready.size()) < depth; });
      if (stop) return;
    }
    try {
      Batch batch = make(next);
      std::lock_guard lock(mutex);
      ready.push_back(std::move(batch));
      ++next;
    } catch (...) {
      std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
    changed.notify_all();
    if (failure) return;  // written by this thread alone
  }
}

Loader::Loader(std::function<Batch(int64_t)> make, int64_t first, int64_t depth)
    : impl_(std::make_unique<Impl>()) {
  impl_->make = std::move(make);
  impl_->next = first;
  impl_->depth = depth < 1 ? 1 : depth;
  impl_->thread = std::thread([impl = impl_.get()] { impl->work(); });
}

Loader::~Loader() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

Batch Loader::next() {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return !impl_->ready.empty() || impl_->failure; });
  impl_->waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (impl_->ready.empty()) std::rethrow_exception(impl_->failure);
  Batch batch = std::move(impl_->ready.front());
  impl_->ready.pop_front();
  lock.unlock();
  impl_->changed.notify_all();
  return batch;
}

double Loader::waited_seconds() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->waited;
}

}  // namespace ctxc
