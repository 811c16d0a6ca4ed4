// The allocator and the thread pool by themselves.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "native/core/allocator.h"
#include "native/core/thread_pool.h"
#include "native/test/harness.h"

namespace fuselm::test {
namespace {

TEST(allocator_reuses_and_counts) {
  SystemMemory memory(0, false);
  Allocator a(memory);
  for (const int64_t bytes :
       {0ll, 1ll, 64ll, 65ll, 1000ll, 131072ll, 131073ll, 3ll << 20, 40ll << 20}) {
    Block first = a.Allocate(bytes, MemoryUse::kBuffer, "t");
    std::byte* data = first.data;
    CHECK(data && reinterpret_cast<uintptr_t>(data) % 64 == 0);
    if (bytes > 0) std::memset(data, 1, static_cast<size_t>(bytes));
    CHECK_EQ(a.stats().live_bytes, bytes);
    CHECK_EQ(a.stats().live_buffers, 1);
    a.Free(first, MemoryUse::kBuffer);
    CHECK(!first);
    Block second = a.Allocate(bytes, MemoryUse::kBuffer, "t");
    CHECK(second.data == data);
    a.Free(second, MemoryUse::kBuffer);
  }
  CHECK_EQ(a.stats().live_bytes, 0);
  CHECK_EQ(a.stats().peak_bytes, 40ll << 20);
  CHECK(a.stats().cached_bytes >= 40ll << 20);
  a.ReleaseCache();
  CHECK_EQ(a.stats().cached_bytes, 0);
}

TEST(allocator_random_blocks_never_meet) {
  SystemMemory memory(0, false);
  Allocator a(memory);
  std::mt19937 random(2);
  struct Held {
    Block block;
    unsigned char tag;
  };
  std::vector<Held> held;
  int64_t live = 0;
  for (int round = 0; round < 6000; ++round) {
    if (held.size() > 60 || (!held.empty() && random() % 3 == 0)) {
      const size_t i = random() % held.size();
      Held h = held[i];
      for (int64_t k = 0; k < h.block.bytes; k += 61) {
        CHECK_EQ(static_cast<int>(h.block.data[k]), static_cast<int>(h.tag));
      }
      live -= h.block.bytes;
      a.Free(h.block, MemoryUse::kBuffer);
      held[i] = held.back();
      held.pop_back();
    } else {
      const int64_t bytes = static_cast<int64_t>(random() % (1u << (random() % 21)));
      Held h{a.Allocate(bytes, MemoryUse::kBuffer, "t"), static_cast<unsigned char>(random())};
      std::memset(h.block.data, h.tag, static_cast<size_t>(bytes));
      live += bytes;
      held.push_back(h);
    }
    if (round % 1000 == 999) a.ReleaseCache();
    CHECK_EQ(a.stats().live_bytes, live);
  }
  for (Held& h : held) a.Free(h.block, MemoryUse::kBuffer);
  a.ReleaseCache();
  CHECK_EQ(a.stats().cached_bytes, 0);
}

TEST(allocator_joins_free_neighbours) {
  SystemMemory memory(0, false);
  Allocator a(memory);
  std::vector<Block> parts;
  for (int i = 0; i < 4; ++i) parts.push_back(a.Allocate(4 << 20, MemoryUse::kBuffer, "t"));
  const int64_t reserved = a.stats().cached_bytes + a.stats().live_bytes;
  for (const int i : {1, 3, 0, 2}) a.Free(parts[i], MemoryUse::kBuffer);
  Block whole = a.Allocate(16 << 20, MemoryUse::kBuffer, "t");
  CHECK_EQ(a.stats().cached_bytes + a.stats().live_bytes, reserved);
  a.Free(whole, MemoryUse::kBuffer);
}

TEST(allocator_limit_frees_the_cache_first) {
  SystemMemory memory(8 << 20, false);
  Allocator a(memory);
  Block small = a.Allocate(100, MemoryUse::kBuffer, "t");
  Block one = a.Allocate(6 << 20, MemoryUse::kBuffer, "t");
  CHECK_THROWS(a.Allocate(6 << 20, MemoryUse::kBuffer, "toy at step 3"), ErrorCode::kOutOfMemory,
               "toy at step 3: out of memory: asked for 6291456 bytes, 6291556 bytes in 2 buffers");
  a.Free(one, MemoryUse::kBuffer);
  Block three = a.Allocate(3 << 20, MemoryUse::kBuffer, "t");  // splits the cached six
  a.Free(three, MemoryUse::kBuffer);
  Block seven = a.Allocate(7 << 20, MemoryUse::kBuffer, "t");  // only after the six is given back
  a.Free(seven, MemoryUse::kBuffer);
  a.Free(small, MemoryUse::kBuffer);
  CHECK_THROWS(a.Allocate(INT64_MAX, MemoryUse::kBuffer, "t"), ErrorCode::kOutOfMemory,
               "limit 8388608");
  CHECK_THROWS(a.Allocate(-1, MemoryUse::kBuffer, "t"), ErrorCode::kOutOfMemory, "out of memory");
}

TEST(allocator_refuses_what_the_system_has_not) {
  SystemMemory memory(0, false);
  Allocator a(memory);
  CHECK_THROWS(a.Allocate(1ll << 60, MemoryUse::kBuffer, "t"), ErrorCode::kOutOfMemory,
               "asked for");
}

TEST(allocator_injected_failure) {
  SystemMemory memory(0, false);
  Allocator a(memory);
  memory.FailAllocation(2);
  Block one = a.Allocate(10, MemoryUse::kBuffer, "t");
  CHECK_THROWS(a.Allocate(10, MemoryUse::kWorkspace, "t"), ErrorCode::kOutOfMemory,
               "out of memory");
  Block three = a.Allocate(10, MemoryUse::kBuffer, "t");
  a.Free(one, MemoryUse::kBuffer);
  a.Free(three, MemoryUse::kBuffer);
}

TEST(allocator_guard_faults_past_the_end) {
  SystemMemory memory(0, true);
  Allocator a(memory);
  Block block = a.Allocate(128, MemoryUse::kBuffer, "t");
  CHECK_EQ(static_cast<int>(block.data[127]), 0xff);
  int status[2];
  for (const int past : {0, 1}) {
    const pid_t child = fork();
    if (child == 0) {
      // A sanitizer's report of the fault is of no interest.
      if (past) fclose(stderr);
      const_cast<volatile std::byte*>(block.data)[past ? 128 : 127] = std::byte{1};
      _exit(0);
    }
    waitpid(child, &status[past], 0);
  }
  CHECK(WIFEXITED(status[0]) && WEXITSTATUS(status[0]) == 0);
  CHECK(!WIFEXITED(status[1]) || WEXITSTATUS(status[1]) != 0);
  a.Free(block, MemoryUse::kBuffer);
}

struct Open final : TileGate {
  bool BeforeTile() override { return true; }
};

TEST(pool_runs_every_tile_once) {
  for (const int workers : {1, 2, 5}) {
    ThreadPool pool(workers);
    Open gate;
    for (int round = 0; round < 3000; ++round) {
      const int64_t tiles = round % 23;
      struct Closure {
        std::vector<int> count;
        std::atomic<int> bad{0};
        int workers;
      } closure{std::vector<int>(static_cast<size_t>(tiles)), {}, workers};
      const bool all = pool.Run(
          tiles,
          [](void* c, int64_t tile, int worker) {
            auto& closure = *static_cast<Closure*>(c);
            closure.count[static_cast<size_t>(tile)] += 1;
            if (worker < 0 || worker >= closure.workers) closure.bad += 1;
          },
          &closure, gate);
      CHECK(all);
      for (const int n : closure.count) CHECK_EQ(n, 1);
      CHECK_EQ(closure.bad.load(), 0);
      if (round % 500 == 0) usleep(300);  // let the workers fall asleep
    }
  }
}

TEST(pool_stops_when_the_gate_closes) {
  ThreadPool pool(3);
  struct Three final : TileGate {
    int left = 3;
    bool BeforeTile() override { return left-- > 0; }
  } gate;
  std::atomic<int64_t> ran{0};
  const bool all = pool.Run(
      1'000'000,
      [](void* c, int64_t, int) {
        static_cast<std::atomic<int64_t>*>(c)->fetch_add(1);
        usleep(20);
      },
      &ran, gate);
  CHECK(!all);
  CHECK(ran >= 3 && ran < 1'000'000);
  Open open;
  ran = 0;
  CHECK(pool.Run(
      10, [](void* c, int64_t, int) { static_cast<std::atomic<int64_t>*>(c)->fetch_add(1); }, &ran,
      open));
  CHECK_EQ(ran.load(), 10);
}

}  // namespace
}  // namespace fuselm::test
