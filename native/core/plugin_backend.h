// A device behind a plugin (device_plugin.h). A queue of ours is one of the plugin's: commands are
// enqueued there as the executor takes them, and what JavaScript waits for is completed by a thread
// per queue that waits for fences.
//
// Memory is reused in the order of a queue without waiting, so each queue has an allocator of its
// own over the device's memory. A block freed by another queue's record makes the owner wait for
// that queue first, on the device.
#pragma once

#include <atomic>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "native/core/backend.h"
#include "native/core/device_plugin.h"

namespace fuselm {

class PluginMemory final : public MemorySource {
 public:
  PluginMemory(const FuselmDevicePlugin& plugin, int device, int64_t limit, bool guard);

 private:
  std::byte* Map(int64_t bytes) override;
  void Unmap(std::byte* data, int64_t bytes) override;
  bool MapGuarded(Block& block, int64_t bytes) override;
  void UnmapGuarded(Block& block) override;

  const FuselmDevicePlugin& plugin_;
  const int device_;
};

class PluginQueue;

class PluginBackend final : public Backend {
 public:
  PluginBackend(const FuselmDevicePlugin& plugin, int device, int64_t memory_limit, bool guard);
  ~PluginBackend() override;

  const char* level() const override { return plugin.name; }
  Block Allocate(const Queue& queue, int64_t bytes, MemoryUse use,
                 const std::string& purpose) override;
  void Free(const Queue& by, Block& block, MemoryUse use) override;
  void Invoke(Frame& frame, KernelEntry& kernel) override;
  void CopyIn(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) override;
  void CopyOut(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) override;
  void Complete(Queue& queue, uint32_t token, const FailurePtr& failure) override;
  void Signal(Queue& queue, uint32_t event) override;
  void Wait(Queue& queue, uint32_t event) override;
  void Settle(Queue& queue) override;
  void Leave(EnvironmentImpl& environment) override;
  void FreeLeft(Block& block, MemoryUse use) override;
  MemoryStats memory() const override;
  void FailAllocation(int64_t nth) override { source_.FailAllocation(nth); }

  // Throws Error with the plugin's code and message.
  void Check(int code) const;
  // Fences are kept for reuse. Any thread.
  FuselmPluginFence* TakeFence();
  void GiveFence(FuselmPluginFence* fence);

  const FuselmDevicePlugin& plugin;
  const int device;

 private:
  struct Event {
    const EnvironmentImpl* environment;
    uint32_t id;
    FuselmPluginFence* fence;
  };

  PluginQueue& Of(const Queue& queue);
  void DropDoneEvents();

  PluginMemory source_;
  // Executor's thread only, but for memory(), which reads under the lock.
  mutable std::mutex queues_mutex_;
  std::unordered_map<const Queue*, std::unique_ptr<PluginQueue>> queues_;
  // Allocators of queues that have left, whose blocks may still be held.
  std::vector<std::unique_ptr<Allocator>> left_;
  std::deque<Event> events_;
  std::mutex fences_mutex_;
  std::vector<FuselmPluginFence*> fences_;
};

}  // namespace fuselm
