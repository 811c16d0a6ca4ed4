// Where buffers live and kernels run: this process's own memory and threads, or a device behind a
// plugin. Called on the executor's thread, but for what says otherwise.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "native/core/allocator.h"
#include "native/core/environment.h"
#include "native/core/kernel_table.h"

namespace fuselm {

class Frame;

class Backend {
 public:
  virtual ~Backend() = default;

  // What its kernels are compiled for, as reports name it.
  virtual const char* level() const = 0;

  // Memory that commands of `queue` may use at once. Throws Error(kOutOfMemory).
  virtual Block Allocate(const Queue& queue, int64_t bytes, MemoryUse use,
                         const std::string& purpose) = 0;
  // `by` has waited for every use of the block.
  virtual void Free(const Queue& by, Block& block, MemoryUse use) = 0;

  // Runs or enqueues the frame's command. Throws Error.
  virtual void Invoke(Frame& frame, KernelEntry& kernel) = 0;
  // In order with the queue's commands. `from` of CopyIn is read before it returns; `to` of CopyOut
  // is written when a later Complete has completed.
  virtual void CopyIn(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) = 0;
  virtual void CopyOut(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) = 0;
  // Completes the token, with the failure if there is one, when what the queue was given is done.
  virtual void Complete(Queue& queue, uint32_t token, const FailurePtr& failure) = 0;

  // Signal comes first: the executor holds back a wait until then.
  virtual void Signal(Queue& queue, uint32_t event) = 0;
  virtual void Wait(Queue& queue, uint32_t event) = 0;
  // Returns when the queue's commands are done: for traces.
  virtual void Settle(Queue& queue) = 0;

  // Ends what the environment's queues still run and complete, and forgets the queues; a buffer
  // freed afterwards is used by nobody.
  virtual void Leave(EnvironmentImpl& environment) = 0;
  // Gives back a block that no queue uses any more.
  virtual void FreeLeft(Block& block, MemoryUse use) = 0;

  // Any thread.
  virtual MemoryStats memory() const = 0;
  virtual void FailAllocation(int64_t nth) = 0;
};

// Kernels of this process, on the executor's own threads.
class HostBackend final : public Backend {
 public:
  HostBackend(int64_t memory_limit, bool guard, const char* level)
      : level_(level), source_(memory_limit, guard), allocator_(source_) {}

  const char* level() const override { return level_; }
  Block Allocate(const Queue& queue, int64_t bytes, MemoryUse use,
                 const std::string& purpose) override;
  void Free(const Queue& by, Block& block, MemoryUse use) override;
  void Invoke(Frame& frame, KernelEntry& kernel) override;
  void CopyIn(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) override;
  void CopyOut(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) override;
  void Complete(Queue& queue, uint32_t token, const FailurePtr& failure) override;
  void Signal(Queue&, uint32_t) override {}
  void Wait(Queue&, uint32_t) override {}
  void Settle(Queue&) override {}
  void Leave(EnvironmentImpl&) override {}
  void FreeLeft(Block& block, MemoryUse use) override { allocator_.Free(block, use); }
  MemoryStats memory() const override { return allocator_.stats(); }
  void FailAllocation(int64_t nth) override { source_.FailAllocation(nth); }

 private:
  const char* const level_;
  SystemMemory source_;
  Allocator allocator_;
};

}  // namespace fuselm
