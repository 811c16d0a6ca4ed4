// Threads that run the tiles of one job at a time beside the thread that calls Run (worker 0).
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "native/core/kernel.h"

namespace fuselm {

// Called on worker 0 before each of its tiles; false gives up the tiles that nobody has claimed.
class TileGate {
 public:
  virtual bool BeforeTile() = 0;

 protected:
  ~TileGate() = default;
};

// Makes the calling thread yield to the JavaScript thread, and keeps signals away from it.
void PrepareWorkerThread(const char* name);

class ThreadPool {
 public:
  explicit ThreadPool(int workers);
  // Stops and joins; precondition: no Run in progress.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int workers() const { return workers_; }
  // Runs every tile once and returns true, or, when the gate refused, some of them and false. All
  // tiles that were begun have ended when it returns. One caller at a time.
  bool Run(int64_t tiles, TileRunner::TileFn fn, void* closure, TileGate& gate);
  // As Run, on the calling thread alone: for work nested between the tiles of a Run.
  static bool RunAlone(int64_t tiles, TileRunner::TileFn fn, void* closure, TileGate& gate);
  // Whether the job in progress has tiles that nobody has claimed.
  bool tiles_left() const { return next_.load(std::memory_order_relaxed) < tiles_; }

 private:
  void Stop();
  void Work(int worker);
  bool Join(uint32_t& seen);
  void Leave();

  const int workers_;
  // The job. Written by Run while no worker is inside, read by workers that joined.
  TileRunner::TileFn fn_ = nullptr;
  void* closure_ = nullptr;
  int64_t tiles_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  // Bit 31: open to join. Bits 16..30: number of the job. Bits 0..15: workers inside.
  alignas(64) std::atomic<uint32_t> door_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<uint32_t> left_{0};  // changes when the last worker leaves a closed job
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace fuselm
