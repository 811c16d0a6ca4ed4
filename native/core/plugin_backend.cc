#include "native/core/plugin_backend.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>

#include "native/core/executor.h"
#include "native/core/futex.h"

namespace fuselm {
namespace {

// Fewer, larger pieces than on the CPU: the device's own allocation is slow, and waits for its
// work.
constexpr int64_t kSegment = int64_t{64} << 20;
constexpr int64_t kWorkspaceAlignment = 256;

FuselmTensor ToTensor(const View& view) {
  FuselmTensor t{};
  t.data = view.data;
  t.dtype = static_cast<int32_t>(view.dtype);
  t.rank = view.rank;
  for (int i = 0; i < view.rank; ++i) {
    t.shape[i] = view.shape[i];
    t.stride[i] = view.stride[i];
  }
  return t;
}

}  // namespace

// ------------------------------------------------------------------------------------- memory

PluginMemory::PluginMemory(const FuselmDevicePlugin& plugin, int device, int64_t limit, bool guard)
    : MemorySource(limit, guard, kSegment), plugin_(plugin), device_(device) {}

std::byte* PluginMemory::Map(int64_t bytes) {
  void* data = nullptr;
  const int code = plugin_.alloc(device_, bytes, &data);
  if (code == 0) return static_cast<std::byte*>(data);
  if (code == static_cast<int>(ErrorCode::kOutOfMemory)) return nullptr;
  throw Error(static_cast<ErrorCode>(code), plugin_.last_error());  // a device that was lost
}

void PluginMemory::Unmap(std::byte* data, int64_t) { plugin_.free(device_, data); }

bool PluginMemory::MapGuarded(Block& block, int64_t bytes) {
  block.data = Map(std::max<int64_t>(bytes, 1));
  return block.data != nullptr;
}

void PluginMemory::UnmapGuarded(Block& block) { Unmap(block.data, block.held); }

// -------------------------------------------------------------------------------------- queues

class PluginQueue {
 public:
  PluginQueue(PluginBackend& backend, EnvironmentImpl& environment, int priority,
              MemorySource& source)
      : environment(environment),
        allocator(std::make_unique<Allocator>(source)),
        backend_(backend) {
    backend.Check(backend.plugin.queue_create(backend.device, priority, &queue));
    try {
      thread_ = std::thread([this] { Loop(); });
    } catch (const std::system_error& e) {
      backend.plugin.queue_destroy(queue);
      throw Error(ErrorCode::kDevice, std::string("cannot start a thread: ") + e.what());
    }
  }

  // What was given to it is done and completed first.
  ~PluginQueue() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
    backend_.plugin.queue_destroy(queue);
  }

  // A fence behind what the queue was given so far.
  FuselmPluginFence* Fence() {
    FuselmPluginFence* fence = backend_.TakeFence();
    const int code = backend_.plugin.fence_record(fence, queue);
    if (code != 0) backend_.GiveFence(fence);
    backend_.Check(code);
    return fence;
  }

  void CompleteLater(uint32_t token, uint32_t step, const FailurePtr& failure) {
    FuselmPluginFence* fence = Fence();
    {
      std::lock_guard lock(mutex_);
      waiting_.push_back({fence, token, step, failure});
    }
    changed_.notify_all();
  }

  FuselmPluginQueue* queue = nullptr;
  EnvironmentImpl& environment;
  std::unique_ptr<Allocator> allocator;

 private:
  struct Waiting {
    FuselmPluginFence* fence;
    uint32_t token;
    uint32_t step;
    FailurePtr failure;
  };

  void Loop() {
    PrepareWorkerThread("fuselm-fence");
    for (;;) {
      Waiting next;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        next = std::move(waiting_.front());
        waiting_.pop_front();
      }
      const int code = backend_.plugin.fence_wait(next.fence);
      if (code != 0 && !next.failure) {
        // The device lost its work: nothing enqueued there can be trusted.
        next.failure = std::make_shared<const Failure>(
            Failure{static_cast<ErrorCode>(code),
                    std::string(backend_.plugin.last_error()) + ", at or before step " +
                        std::to_string(next.step),
                    next.step, 0});
        environment.NoteFailure(*next.failure);
      }
      backend_.GiveFence(next.fence);
      environment.Complete(next.token, next.failure);
    }
  }

  PluginBackend& backend_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;
  bool stop_ = false;
  std::thread thread_;
};

// ------------------------------------------------------------------------------------- backend

PluginBackend::PluginBackend(const FuselmDevicePlugin& plugin, int device, int64_t memory_limit,
                             bool guard)
    : plugin(plugin), device(device), source_(plugin, device, memory_limit, guard) {}

PluginBackend::~PluginBackend() {
  for (Event& event : events_) plugin.fence_destroy(event.fence);
  queues_.clear();
  for (FuselmPluginFence* fence : fences_) plugin.fence_destroy(fence);
}

void PluginBackend::Check(int code) const {
  if (code != 0) throw Error(static_cast<ErrorCode>(code), plugin.last_error());
}

FuselmPluginFence* PluginBackend::TakeFence() {
  {
    std::lock_guard lock(fences_mutex_);
    if (!fences_.empty()) {
      FuselmPluginFence* fence = fences_.back();
      fences_.pop_back();
      return fence;
    }
  }
  FuselmPluginFence* fence = nullptr;
  Check(plugin.fence_create(device, &fence));
  return fence;
}

void PluginBackend::GiveFence(FuselmPluginFence* fence) {
  std::lock_guard lock(fences_mutex_);
  fences_.push_back(fence);
}

PluginQueue& PluginBackend::Of(const Queue& queue) {
  const auto found = queues_.find(&queue);
  if (found != queues_.end()) return *found->second;
  auto made = std::make_unique<PluginQueue>(*this, *queue.environment, queue.priority, source_);
  std::lock_guard lock(queues_mutex_);
  return *queues_.emplace(&queue, std::move(made)).first->second;
}

Block PluginBackend::Allocate(const Queue& queue, int64_t bytes, MemoryUse use,
                              const std::string& purpose) {
  PluginQueue& q = Of(queue);
  Block block = q.allocator->Allocate(bytes, use, purpose, true);
  if (!block) {
    // What other queues have cached may do; giving it back waits for the device.
    for (const auto& [key, other] : queues_) other->allocator->ReleaseCache();
    try {
      block = q.allocator->Allocate(bytes, use, purpose);
    } catch (const Error& e) {
      int64_t free = 0, total = 0;
      if (e.code() != ErrorCode::kOutOfMemory || plugin.memory_info(device, &free, &total) != 0)
        throw;
      throw Error(e.code(), std::string(e.what()) + "; " + std::to_string(free) + " of the GPU's " +
                                std::to_string(total) + " bytes are free");
    }
  }
  if (source_.guard) Check(plugin.fill(q.queue, block.data, 0xff, bytes));
  return block;
}

void PluginBackend::Free(const Queue& by, Block& block, MemoryUse use) {
  if (!block) return;
  PluginQueue& freeing = Of(by);
  if (block.owner != freeing.allocator.get()) {
    for (const auto& [key, owner] : queues_) {
      if (owner->allocator.get() != block.owner) continue;
      FuselmPluginFence* fence = freeing.Fence();
      const int code = plugin.queue_wait(owner->queue, fence);
      GiveFence(fence);  // what waits for it is on the device already
      Check(code);
    }
  }
  block.owner->Free(block, use);
}

void PluginBackend::Invoke(Frame& frame, KernelEntry& kernel) {
  Variant& variant = kernel.Select(frame.command.views);
  PluginQueue& q = Of(*frame.queue);
  std::vector<FuselmTensor> tensors;
  tensors.reserve(frame.command.views.size());
  for (const View& view : frame.command.views) tensors.push_back(ToTensor(view));
  struct Room {
    Frame& frame;
    std::optional<Error> failure;  // no exception crosses the plugin
  } room{frame, {}};
  const FuselmWorkspace workspace{
      &room, [](void* context, int64_t bytes) -> void* {
        auto& [frame, failure] = *static_cast<Room*>(context);
        try {
          const auto memory = reinterpret_cast<uintptr_t>(
              frame.Workspace(static_cast<size_t>(bytes + kWorkspaceAlignment)));
          return reinterpret_cast<void*>((memory + kWorkspaceAlignment - 1) / kWorkspaceAlignment *
                                         kWorkspaceAlignment);
        } catch (const Error& e) {
          failure = e;
        } catch (const std::bad_alloc&) {}
        return nullptr;
      }};
  const int64_t start = NowNs();
  const int code =
      plugin.launch(q.queue, variant.info.plugin_kernel, tensors.data(),
                    static_cast<int32_t>(tensors.size()), frame.command.attributes.data(),
                    static_cast<int32_t>(frame.command.attributes.size()), &workspace);
  if (code != 0 && room.failure) throw *room.failure;
  Check(code);
  variant.executions.fetch_add(1, std::memory_order_relaxed);
  variant.nanoseconds.fetch_add(NowNs() - start, std::memory_order_relaxed);
}

void PluginBackend::CopyIn(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) {
  Check(plugin.copy_to_device(Of(*frame.queue).queue, to, from, bytes));
}

void PluginBackend::CopyOut(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) {
  Check(plugin.copy_to_host(Of(*frame.queue).queue, to, from, bytes));
}

void PluginBackend::Complete(Queue& queue, uint32_t token, const FailurePtr& failure) {
  try {
    Of(queue).CompleteLater(token, queue.step, failure);
  } catch (const Error& e) {
    // What the token waits for failed first, if it did.
    const auto lost = std::make_shared<const Failure>(Failure{e.code(), e.what(), queue.step, 0});
    queue.environment->Complete(token, failure ? failure : lost);
  }
}

void PluginBackend::DropDoneEvents() {
  while (!events_.empty()) {
    int32_t done = 0;
    // A wait that comes later finds nothing, and there is nothing to wait for.
    if (plugin.fence_done(events_.front().fence, &done) == 0 && done == 0) return;
    GiveFence(events_.front().fence);
    events_.pop_front();
  }
}

void PluginBackend::Signal(Queue& queue, uint32_t event) {
  DropDoneEvents();
  events_.push_back({queue.environment, event, Of(queue).Fence()});
}

void PluginBackend::Wait(Queue& queue, uint32_t event) {
  for (const Event& e : events_) {
    if (e.environment != queue.environment || e.id != event) continue;
    Check(plugin.queue_wait(Of(queue).queue, e.fence));
    return;
  }
}

void PluginBackend::Settle(Queue& queue) {
  FuselmPluginFence* fence = Of(queue).Fence();
  const int code = plugin.fence_wait(fence);
  GiveFence(fence);
  Check(code);
}

void PluginBackend::Leave(EnvironmentImpl& environment) {
  std::vector<std::unique_ptr<PluginQueue>> leaving;
  {
    std::lock_guard lock(queues_mutex_);
    for (auto it = queues_.begin(); it != queues_.end();) {
      if (&it->second->environment == &environment) {
        leaving.push_back(std::move(it->second));
        it = queues_.erase(it);
      } else {
        ++it;
      }
    }
  }
  std::erase_if(events_, [&](const Event& e) {
    if (e.environment != &environment) return false;
    plugin.fence_wait(e.fence);
    GiveFence(e.fence);
    return true;
  });
  for (auto& queue : leaving) {
    std::unique_ptr<Allocator> allocator = std::move(queue->allocator);
    queue.reset();
    if (allocator->stats().live_buffers == 0) continue;
    std::lock_guard lock(queues_mutex_);
    left_.push_back(std::move(allocator));
  }
}

void PluginBackend::FreeLeft(Block& block, MemoryUse use) {
  if (!block) return;
  Allocator* owner = block.owner;
  owner->Free(block, use);
  if (owner->stats().live_buffers > 0) return;
  std::lock_guard lock(queues_mutex_);
  std::erase_if(left_, [&](const auto& allocator) { return allocator.get() == owner; });
}

MemoryStats PluginBackend::memory() const {
  MemoryStats sum;
  const auto add = [&](const Allocator& allocator) {
    const MemoryStats m = allocator.stats();
    sum.live_bytes += m.live_bytes;
    sum.live_buffers += m.live_buffers;
    sum.peak_bytes += m.peak_bytes;  // of each queue: an upper bound
    sum.cached_bytes += m.cached_bytes;
    sum.workspace_bytes += m.workspace_bytes;
  };
  std::lock_guard lock(queues_mutex_);
  for (const auto& [key, queue] : queues_) add(*queue->allocator);
  for (const auto& allocator : left_) add(*allocator);
  return sum;
}

}  // namespace fuselm
