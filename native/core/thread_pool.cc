#include "native/core/thread_pool.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>

#include "native/core/futex.h"

namespace fuselm {
namespace {

constexpr uint32_t kOpen = 1u << 31;
constexpr uint32_t kInside = 0xffff;
constexpr uint32_t kJob = 0x7fff0000;
constexpr int kNicer = 5;

}  // namespace

void PrepareWorkerThread(const char* name) {
  pthread_setname_np(pthread_self(), name);
  // On Linux a priority belongs to a thread.
  const id_t self = static_cast<id_t>(syscall(SYS_gettid));
  setpriority(PRIO_PROCESS, self, std::min(19, getpriority(PRIO_PROCESS, self) + kNicer));
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

ThreadPool::ThreadPool(int workers) : workers_(workers) {
  try {
    for (int i = 1; i < workers_; ++i) threads_.emplace_back([this, i] { Work(i); });
  } catch (...) {
    Stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  stop_.store(true);
  door_.fetch_add(1u << 16);
  FutexWake(door_);
  for (std::thread& t : threads_) t.join();
}

bool ThreadPool::RunAlone(int64_t tiles, TileRunner::TileFn fn, void* closure, TileGate& gate) {
  for (int64_t i = 0; i < tiles; ++i) {
    if (!gate.BeforeTile()) return false;
    fn(closure, i, 0);
  }
  return true;
}

bool ThreadPool::Run(int64_t tiles, TileRunner::TileFn fn, void* closure, TileGate& gate) {
  tiles_ = tiles;
  next_.store(0, std::memory_order_relaxed);
  const bool shared = workers_ > 1 && tiles > 1;
  if (shared) {
    fn_ = fn;
    closure_ = closure;
    const uint32_t job = (door_.load(std::memory_order_relaxed) + (1u << 16)) & kJob;
    door_.store(kOpen | job);
    if (sleepers_.load() > 0)
      FutexWake(door_, static_cast<int>(std::min<int64_t>(tiles - 1, workers_ - 1)));
  }
  bool all = true;
  for (;;) {
    if (!gate.BeforeTile()) {
      // Nobody claims another; a claim made before counts as begun.
      all = next_.exchange(tiles, std::memory_order_relaxed) >= tiles;
      break;
    }
    const int64_t tile = next_.fetch_add(1, std::memory_order_relaxed);
    if (tile >= tiles) break;
    fn(closure, tile, 0);
  }
  if (!shared) return all;
  door_.fetch_and(~kOpen);
  const auto empty = [&] { return (door_.load() & kInside) == 0; };
  if (SpinUntil(empty)) return all;
  caller_sleeps_.store(true);
  for (;;) {
    const uint32_t left = left_.load();
    if (empty()) break;
    FutexWait(left_, left);
  }
  caller_sleeps_.store(false);
  return all;
}

// Waits for a job after number `seen` and enters it; false when the pool stops.
bool ThreadPool::Join(uint32_t& seen) {
  uint32_t door = 0;
  const auto ready = [&] {
    door = door_.load();
    return stop_.load(std::memory_order_relaxed) || ((door & kOpen) && (door & kJob) != seen);
  };
  for (;;) {
    if (!ready() && !SpinUntil(ready)) {
      sleepers_.fetch_add(1);
      while (!ready()) FutexWait(door_, door);
      sleepers_.fetch_sub(1);
    }
    if (stop_.load()) return false;
    while ((door & kOpen) && (door & kJob) != seen) {
      if (door_.compare_exchange_weak(door, door + 1)) {
        seen = door & kJob;
        return true;
      }
    }
  }
}

void ThreadPool::Leave() {
  const uint32_t door = door_.fetch_sub(1) - 1;
  if (!(door & kOpen) && (door & kInside) == 0) {
    left_.fetch_add(1);
    if (caller_sleeps_.load()) FutexWake(left_);
  }
}

void ThreadPool::Work(int worker) {
  PrepareWorkerThread("fuselm-pool");
  uint32_t seen = 0;
  while (Join(seen)) {
    for (;;) {
      const int64_t tile = next_.fetch_add(1, std::memory_order_relaxed);
      if (tile >= tiles_) break;
      fn_(closure_, tile, worker);
    }
    Leave();
  }
}

}  // namespace fuselm
