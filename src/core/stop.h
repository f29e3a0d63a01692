// SIGINT and SIGTERM set a flag that every loop polls; the work saves and the program exits 130 or 143. A
// second signal exits at once.
#pragma once
namespace ctxc {
void install_stop_handlers();
/// 0, or the signal's number once it arrived.
int stop_signal();
inline bool stop_requested() {
  return stop_signal() != 0;
}
/// Tests only: forget the signal.
void reset_stop_for_test();
/// Thrown out of a loop that had nothing to save; main() turns it into 128 + signal.
struct Stopped {
  int signal;
};
}  // namespace ctxc
