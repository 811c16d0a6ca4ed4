// One thread per device that runs records: the next one of the highest-priority ready queue, and,
// between the tiles of a running command, those of strictly higher priority, on its own thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "native/core/backend.h"
#include "native/core/decoder.h"
#include "native/core/environment.h"
#include "native/core/kernel_table.h"
#include "native/core/thread_pool.h"
#include "native/core/trace.h"

namespace fuselm {

class Executor;

// One level of nesting: the command that runs there, and its memory.
class Frame final : public TileRunner, public TileGate {
 public:
  Frame(Executor& executor, int depth);

  // TileRunner
  void Run(int64_t tiles, TileFn fn, void* closure) override;
  int workers() const override;
  std::byte* Scratch(int worker, size_t bytes) override;
  void ReserveScratch(size_t bytes_per_worker) override;
  std::byte* Workspace(size_t bytes) override;
  bool cancelled() const override { return cancel.load(std::memory_order_relaxed); }

  // TileGate
  bool BeforeTile() override;

  void FreeWorkspaces();
  void FreeScratch();
  // Marks the command's buffers as used by a command that a nested one must not disturb.
  void Pin(int by);

  Executor& executor;
  const int depth;
  // Written under the executor's mutex.
  Queue* queue = nullptr;
  uint32_t owner = 0;
  bool transactional = false;
  std::atomic<bool> cancel{false};
  // Executor's thread only.
  const char* op = "";
  Decoded command;
  int64_t resumed_ns = 0;      // when its own tiles last went on
  int64_t last_nested_ns = 0;  // how long the last visit of nested commands took
  int64_t nested_ns = 0;       // all of them

 private:
  std::vector<Block> scratch_;
  std::vector<Block> workspaces_;
};

class Executor {
 public:
  Executor(KernelTable& kernels, Backend& backend, ThreadPool& pool, Trace& trace, bool guard);
  ~Executor();  // Stop, join

  void Add(EnvironmentImpl& environment);
  Queue& CreateQueue(EnvironmentImpl& environment, int priority);
  void Submit(EnvironmentImpl& environment, uint32_t queue, std::vector<uint32_t> words,
              int64_t records);
  void Cancel(EnvironmentImpl& environment, uint32_t owner);
  // Returns when the environment is drained and its buffers are freed, or the executor has stopped.
  void Close(EnvironmentImpl& environment);
  // Ends the thread at the running command's next tile; false when that took longer than the limit.
  bool Stop(std::chrono::milliseconds limit);
  // Precondition: Stop returned true.
  void Join() { thread_.join(); }

  KernelTable& kernels;
  Backend& backend;
  ThreadPool& pool;
  Trace& trace;
  const bool guard;

 private:
  friend class Frame;
  struct Task {
    Queue* queue = nullptr;
    const uint32_t* record = nullptr;
    bool drained = false;  // its owner was cancelled before it started
  };

  void Loop();
  // Under one lock: finishes `done` (when it names a queue), then takes the next record of a ready
  // queue above `priority` for the frame at `depth`.
  Task Next(const Task& done, int64_t priority, int depth);
  bool Ready(const Queue& queue) const;
  void UpdateReady();
  bool Drained(EnvironmentImpl& environment, const Queue& queue, uint32_t owner);
  void Wake();
  void FinishClosing();
  void FreeBuffers(EnvironmentImpl& environment);
  void RunNested(Frame& outer);

  // commands.cc
  void Execute(const Task& task, int depth);
  void Dispatch(const Task& task, Frame& frame);
  void RunKernel(const Task& task, Frame& frame, KernelEntry& kernel);
  void Signal(const Task& task);
  void Allocate(const Task& task);
  void Release(const Task& task);
  void Mend(const Task& task);
  void Write(const Task& task, Frame& frame);
  void Upload(const Task& task, Frame& frame);
  void Read(const Task& task, Frame& frame);
  FailurePtr Store(const Task& task, Frame& frame, uint32_t id, int64_t offset,
                   const std::byte* data, int64_t bytes, const char* op);
  FailurePtr Fail(const Task& task, ErrorCode code, const std::string& message);

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // an environment closed, or the thread ended
  std::vector<EnvironmentImpl*> environments_;
  std::vector<std::unique_ptr<Frame>> frames_;
  int running_frames_ = 0;
  uint64_t serving_ = 0;
  bool stop_ = false;
  bool ended_ = false;

  std::atomic<int64_t> ready_priority_;
  std::atomic<uint32_t> work_{0};  // changes when there may be something to do
  std::atomic<bool> sleeping_{false};

  // Executor's thread only.
  std::vector<Block> deferred_;  // freed by a nested command while one below used them
  uint64_t failures_ = 0;

  std::thread thread_;
};

}  // namespace fuselm
