#include "data/loader.h"

#include <atomic>
#include <future>
#include <thread>

#include "core/error.h"
#include "testing.h"

namespace ctxc {
namespace {

Batch numbered(int64_t number) {
  Batch batch;
  batch.key.step = number;
  return batch;
}

TEST(Loader, GivesBatchesInOrderAndRunsAhead) {
  std::atomic<int64_t> made{0};
  Loader loader(
      [&](int64_t number) {
        ++made;
        return numbered(number);
      },
      7, 3);
  for (int64_t i = 7; i < 60; ++i) {
    EXPECT_EQ(loader.next().key.step, i);
    EXPECT_LE(made.load(), i - 7 + 1 + 3 + 1);
  }
  EXPECT_GE(loader.waited_seconds(), 0);
}

TEST(Loader, WhatItThrowsComesOutAfterTheGoodBatches) {
  Loader loader(
      [](int64_t number) {
        if (number == 3) throw Error(ErrorKind::kInput, "data.jsonl:4: broken");
        return numbered(number);
      },
      0, 2);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(loader.next().key.step, i);
  for (int repeat = 0; repeat < 2; ++repeat) {
    try {
      loader.next();
      FAIL() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "data.jsonl:4: broken");
    }
  }
}

TEST(Loader, StopsWhileFullAndWhileWorking) {
  { Loader full(numbered, 0, 1); }
  std::promise<void> started;
  std::atomic<int> calls{0};
  {
    Loader busy(
        [&](int64_t number) {
          if (++calls == 1) started.set_value();
          std::this_thread::yield();
          return numbered(number);
        },
        0, 1000000);
    started.get_future().wait();
  }
  const int after = calls.load();
  std::this_thread::yield();
  EXPECT_EQ(calls.load(), after);
}

TEST(Loader, CountsTheTimeItWasWaitedFor) {
  std::promise<void> go;
  auto gate = go.get_future().share();
  Loader loader(
      [gate](int64_t number) {
        gate.wait();
        return numbered(number);
      },
      0, 1);
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    go.set_value();
  });
  loader.next();
  opener.join();
  EXPECT_GT(loader.waited_seconds(), 0);
}

}  // namespace
}  // namespace ctxc
