#include "core/stop.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace ctxc {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may use nothing else");

void on_signal(int signal) {
  int none = 0;
  if (!received.compare_exchange_strong(none, signal)) _exit(128 + signal);
}

}  // namespace

void install_stop_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // No SA_RESTART: a program that waits for a line of its user must wake up.
  for (int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

int stop_signal() {
  return received.load(std::memory_order_relaxed);
}

void reset_stop_for_test() {
  received = 0;
}

}  // namespace ctxc
