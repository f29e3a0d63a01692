#include <malloc.h>

#include <array>
#include <cstdio>
#include <iostream>
#include <new>

#include "core/cli.h"
#include "core/error.h"
#include "core/stop.h"

namespace ctxc {
namespace {

/// LibTorch reports a failed allocation as a c10::Error, which core does not know; its text tells.
bool is_out_of_memory(const std::string& message) {
  constexpr std::array kTexts = {"can't allocate memory", "not enough memory", "out of memory",
                                 "Cannot allocate memory"};
  for (const char* text : kTexts)
    if (message.find(text) != std::string::npos) return true;
  return false;
}

/// Where no other allocator is linked (cmake/allocator.cmake): a step's tensors are freed, and asked for
/// again by the next step. What the allocator gives back to the system in between comes back as pages to be
/// zeroed, each with a fault: a twentieth of a training step on a CPU.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the largest it takes
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

int report(const Error& error) {
  std::cout.flush();
  std::fflush(stdout);
  std::fputs(render(error).c_str(), stderr);
  return error.exit_code();
}

int report_exception(const std::string& message) {
  // What follows the first line of a c10::Error is its stack trace.
  const std::string first = message.substr(0, message.find('\n'));
  if (is_out_of_memory(message))
    return report(Error(ErrorKind::kMemory, "out of memory: " + first,
                        "smaller batches, shorter contexts or a smaller model need less"));
  return report(Error(ErrorKind::kInternal, "internal: " + first, "this is a bug of ctxc; please report it"));
}

}  // namespace

int run_main(const std::function<int()>& body) {
  keep_freed_memory();
  try {
    const int code = body();
    std::cout.flush();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) || !std::cout.good())
      throw Error(ErrorKind::kDisk, "standard output cannot be written", "is the disk full?");
    return code;
  } catch (const Error& error) {
    return report(error);
  } catch (const Stopped& stopped) {
    return 128 + stopped.signal;
  } catch (const std::bad_alloc&) {
    return report_exception("out of memory");
  } catch (const std::exception& exception) {
    return report_exception(exception.what());
  }
}

}  // namespace ctxc
