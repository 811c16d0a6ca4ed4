// Several queues and environments: order, priority, nesting, cancelling, closing.
#include <algorithm>
#include <thread>

#include "native/test/harness.h"
#include "native/test/session.h"

namespace fuselm::test {
namespace {

using Clock = std::chrono::steady_clock;

double Ms(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

TEST(priority_at_command_boundaries) {
  TheToys().Reset();
  Session s({.threads = 1});
  const uint32_t low = s.environment->CreateQueue(-1), high = s.environment->CreateQueue(5);
  s.Submit(s.Begin().Kernel("toy.hold", {{}, {}}), high);
  AwaitSpinning();
  for (const int tag : {1, 2}) s.Submit(s.Begin().Kernel("toy.log", {{}, {}}, {1.0 * tag}), low);
  for (const int tag : {3, 4}) s.Submit(s.Begin().Kernel("toy.log", {{}, {}}, {1.0 * tag}), 0);
  for (const int tag : {5, 6}) s.Submit(s.Begin().Kernel("toy.log", {{}, {}}, {1.0 * tag}), high);
  TheToys().release = true;
  s.Fence(low);
  CHECK(TheToys().TakeLog() == (std::vector<int>{5, 6, 3, 4, 1, 2}));
}

TEST(nested_between_tiles) {
  for (const int threads : {1, 3}) {
    TheToys().Reset();
    Session s({.threads = threads});
    const uint32_t high = s.environment->CreateQueue(10), top = s.environment->CreateQueue(20);
    s.Submit(s.Begin().Alloc(1, 4).Kernel("toy.spin", {{}, {1, {1}}}, {4000, 200, 100}));
    AwaitSpinning();
    // A long one above it, and a third above that one.
    s.Submit(s.Begin().Alloc(2, 4).Kernel("toy.spin", {{}, {2, {1}}}, {300, 200, 200}), high);
    const auto start = Clock::now();
    Commands c = s.Begin().Alloc(3, 4000).WriteFloats(3, std::vector<float>(1000, 4.f)).Alloc(4, 4);
    c.Kernel("toy.sum", {{3, {1000}}, {4, {1}}});  // scratch and workspace of its own
    s.Submit(c, top);
    CHECK_EQ(s.Floats(4, 1, top)[0], 2000.f);
    const double ms = Ms(Clock::now() - start);
    CHECK(TheToys().TakeLog().empty());  // both others still run
    CHECK(ms < 100);
    CHECK_EQ(s.Floats(2, 1, high)[0], 1.f);
    CHECK(TheToys().TakeLog() == (std::vector<int>{200}));
    s.environment->Close();
  }
}

TEST(equal_priority_does_not_nest) {
  TheToys().Reset();
  Session s({.threads = 2});
  const uint32_t other = s.environment->CreateQueue(0);
  s.Submit(s.Begin().Kernel("toy.spin", {{}, {}}, {200, 200, 1}));
  AwaitSpinning();
  s.Submit(s.Begin().Kernel("toy.log", {{}, {}}, {2}), other);
  s.Fence(other);
  CHECK(TheToys().TakeLog() == (std::vector<int>{1, 2}));
}

// On one thread a flood above leaves the command below its share.
TEST(nested_share_is_capped) {
  TheToys().Reset();
  Session s({.threads = 1});
  const uint32_t high = s.environment->CreateQueue(10);
  s.Submit(s.Begin().Kernel("toy.spin", {{}, {}}, {200, 200, 1}));
  AwaitSpinning();
  Commands flood = s.Begin();
  for (int i = 0; i < 20'000; ++i) flood.Kernel("toy.spin", {{}, {}}, {1, 50, 2});
  s.Submit(flood, high);
  s.Submit(s.Begin().Fence(9));
  const auto start = Clock::now();
  while (std::ranges::count(TheToys().TakeLog(), 1) == 0) {
    CHECK(Ms(Clock::now() - start) < 20'000);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(s.environment->pending_commands() > 1000);  // the flood was not over
  s.environment->Close();
}

TEST(nested_may_not_touch_what_runs_below) {
  TheToys().Reset();
  Session s({.threads = 2});
  const uint32_t high = s.environment->CreateQueue(10);
  s.Submit(s.Begin().Alloc(1, 16).WriteFloats(1, {1, 2, 3, 4}).Alloc(2, 16).Alloc(3, 16));
  s.Submit(s.Begin().Alloc(4, 16).WriteFloats(4, {9, 9, 9, 9}));
  s.Submit(s.Begin().Kernel("toy.hold", {{1, {4}}, {2, {4}}}));
  AwaitSpinning();
  Commands c = s.Begin();
  c.Kernel("toy.scale", {{1, {4}}, {3, {4}}}, {2});  // reads what is read: fine
  s.Submit(c, high);
  CHECK_EQ(s.Floats(3, 4, high)[3], 8.f);
  c = s.Begin();
  c.Kernel("toy.scale", {{2, {4}}, {3, {4}}}, {2});  // reads what is written
  s.Submit(c, high);
  CHECK_THROWS(s.Floats(3, 4, high), ErrorCode::kDevice, "x: buffer 2 is in use");
  CHECK_THROWS(s.Floats(2, 4, high), ErrorCode::kDevice, "in use");
  // Frees what is used, and takes memory of that size at once: it must be other memory.
  s.Submit(s.Begin().Free(1).Alloc(5, 16).WriteFloats(5, {0, 0, 0, 0}), high);
  s.Fence(high);
  TheToys().release = true;
  s.Fence();
  CHECK_EQ(s.Floats(2, 4)[0], 1.f);  // what buffer 1 held
  CHECK_EQ(s.Floats(4, 4)[0], 9.f);
  s.Submit(s.Begin().Free(2).Free(3).Free(4).Free(5));
  s.Fence();
  CHECK_EQ(s.device->memory().live_bytes, 0);
}

TEST(signal_and_wait) {
  TheToys().Reset();
  Session s;
  const uint32_t a = s.environment->CreateQueue(3), b = s.environment->CreateQueue(3);
  s.Submit(s.Begin().Wait(1).Kernel("toy.log", {{}, {}}, {2}).Signal(2), a);
  s.Submit(s.Begin().Wait(1).Wait(2).Kernel("toy.log", {{}, {}}, {3}), b);
  s.Fence();
  CHECK(TheToys().TakeLog().empty());
  s.Submit(s.Begin().Kernel("toy.log", {{}, {}}, {1}).Signal(1));
  s.Fence(b);
  CHECK(TheToys().TakeLog() == (std::vector<int>{1, 2, 3}));
  s.Submit(s.Begin().Wait(2).Wait(1), a);  // signalled before
  s.Fence(a);
}

TEST(cancel_drains_an_owner) {
  TheToys().Reset();
  Session s({.threads = 2});
  s.Submit(
      s.Begin().Alloc(1, 16).WriteFloats(1, {1, 2, 3, 4}).Alloc(2, 16).Alloc(3, 16).Alloc(4, 16));
  s.Submit(s.Begin().WriteFloats(3, {1, 1, 1, 1}).WriteFloats(4, {1, 1, 1, 1}));
  s.Submit(s.Begin().Kernel("toy.hold", {{}, {}}));
  AwaitSpinning();
  Commands mine = s.Begin();
  mine.owner = 7;
  mine.Kernel("toy.scale", {{1, {4}}, {2, {4}}}, {1})
      .Kernel("toy.accumulate", {{3, {4}}, {1, {4}}});
  mine.Kernel("toy.update", {{1, {4}}, {4, {4}}}, {0}).Alloc(5, 64).Signal(1).Fence(60);
  s.Submit(mine);
  Commands other = s.Begin();
  other.owner = 8;
  s.Submit(other.Alloc(6, 16).Kernel("toy.scale", {{1, {4}}, {6, {4}}}, {3}));
  // A queue that still waits keeps the cancellation remembered while later records run.
  const uint32_t waiting = s.environment->CreateQueue(-1);
  s.Submit(s.Begin().Wait(9), waiting);
  s.environment->Cancel(7);
  s.environment->Cancel(0);
  Commands later = s.Begin();
  later.owner = 7;
  s.Submit(later.Alloc(7, 16).Kernel("toy.scale", {{1, {4}}, {7, {4}}}, {3}));
  TheToys().release = true;
  CHECK(s.Await(60).ok);
  CHECK_THROWS(s.Floats(2, 4), ErrorCode::kAborted,
               "toy.scale(f32[4], f32[4]) at step 0: cancelled");
  CHECK_THROWS(s.Floats(3, 4), ErrorCode::kAborted, "cancelled");
  CHECK_EQ(s.Floats(4, 4)[0], 1.f);  // transactional: as it was
  CHECK_EQ(s.Floats(6, 4)[3], 12.f);
  CHECK_EQ(s.Floats(7, 4)[3], 12.f);
  CHECK(!s.environment->TakeFailure());
  s.Submit(s.Begin().Wait(1));  // the drained signal acted
  s.Fence();
  CHECK_EQ(s.device->memory().live_bytes, 16 * 6 + 64);
}

TEST(cancel_ends_the_running_command) {
  for (const int threads : {1, 4}) {
    TheToys().Reset();
    Session s({.threads = threads});
    Commands c = s.Begin();
    c.owner = 3;
    c.Alloc(1, 4).Kernel("toy.spin", {{}, {1, {1}}}, {1'000'000, 100, 1}).Fence(5);
    s.Submit(c);
    AwaitSpinning();
    const auto start = Clock::now();
    s.environment->Cancel(3);
    CHECK(s.Await(5).ok);
    CHECK(Ms(Clock::now() - start) < 500);
    CHECK_THROWS(s.Floats(1, 1), ErrorCode::kAborted, "cancelled while it ran");
  }
}

TEST(cancel_never_tears_a_transaction) {
  TheToys().Reset();
  Session s({.threads = 2});
  Commands c = s.Begin();
  c.owner = 3;
  c.Alloc(1, 4).Kernel("toy.spin_transactional", {{}, {1, {1}}}, {300, 100, 1});
  s.Submit(c);
  AwaitSpinning();
  s.environment->Cancel(3);
  CHECK_EQ(s.Floats(1, 1)[0], 1.f);
  CHECK_EQ(TheToys().tiles.load(), 300);
}

TEST(close_while_busy) {
  for (const int threads : {1, 3}) {
    TheToys().Reset();
    auto device = Device::Open({.threads = threads});
    Session s(device);
    float host[4];
    s.environment->RegisterHost(2, host, sizeof(host));
    Commands c = s.Begin().Alloc(1, 1 << 20);
    c.Kernel("toy.spin_transactional", {{}, {1, {1}}}, {1'000'000, 100, 1});
    c.Wait(1).Read(1, 0, 16, 2).Fence(3).Free(1);
    s.Submit(c);
    AwaitSpinning();
    const auto start = Clock::now();
    s.environment->Close();
    CHECK(Ms(Clock::now() - start) < 500);
    const auto completions = s.environment->TakeCompletions();
    CHECK_EQ(completions.size(), 2u);
    for (const Completion& x : completions) CHECK(!x.ok && x.code == ErrorCode::kAborted);
    CHECK_EQ(device->memory().live_bytes, 0);
    CHECK_EQ(s.environment->pending_commands(), 0);
    CHECK_THROWS(s.Submit(s.Begin().Fence(1)), ErrorCode::kDevice, "closed");
    s.environment->Close();
  }
}

TEST(environments_share_a_device) {
  TheToys().Reset();
  auto device = Device::Open({.threads = 3});
  CHECK(device == Device::Open({.threads = 3}));
  CHECK(device != Device::Open({.threads = 2}));
  // The same ids, queues and tokens in each; one closes while the others run.
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      try {
        for (int round = 0; round < 30; ++round) {
          Session s(device);
          const uint32_t high = s.environment->CreateQueue(t);
          Commands c = s.Begin()
                           .Alloc(1, 4000)
                           .WriteFloats(1, std::vector<float>(1000, 1.f + t))
                           .Alloc(2, 4000);
          for (int i = 0; i < 20; ++i) c.Kernel("toy.scale", {{1, {10, 100}}, {2, {10, 100}}}, {2});
          c.Signal(1);
          s.Submit(c);
          s.Submit(s.Begin().Wait(1), high);
          const auto y = s.Floats(2, 1000, high);
          if (!std::ranges::all_of(y, [&](float v) { return v == 2 * (1.f + t); })) return;
          if (round % 3 == 0) s.Submit(c);  // left running
        }
        good += 1;
      } catch (const std::exception& e) {
        std::fprintf(stderr, "environments_share_a_device: %s\n", e.what());
      }
    });
  }
  for (auto& t : threads) t.join();
  CHECK_EQ(good.load(), 4);
  CHECK_EQ(device->memory().live_bytes, 0);
}

TEST(device_options) {
  CHECK_THROWS(Device::Open({.threads = -1}), ErrorCode::kConfig, "threads must be 0 to 1024");
  CHECK_THROWS(Device::Open({.memory_limit = -1}), ErrorCode::kConfig, "memory limit");
  CHECK(Device::Open({.max_level = Level::kGeneric, .threads = 1})->level() ==
        std::string("generic"));
  CHECK(Device::Open({.threads = 1})->level() == std::string(LevelName(MachineLevel())));
  CHECK(Device::Open({})->threads() == DefaultThreads());
  Session s({.threads = 1, .memory_limit = 1 << 20});
  s.Submit(s.Begin().Alloc(1, 2 << 20));
  CHECK_THROWS(s.Floats(1, 1), ErrorCode::kOutOfMemory, "limit 1048576");
}

}  // namespace
}  // namespace fuselm::test
