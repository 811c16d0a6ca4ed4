// A queue is a stream with a priority and its own pinned staging; a fence is an event.
//
// Pageable memory given to cudaMemcpyAsync makes it wait, or copy at a third of the bus's rate, so
// every copy goes by way of pinned chunks: to the device, the caller's thread fills one chunk while
// the engine drains the other; to the host, a host function moves each chunk on in stream order.

#include "native/cuda/queue.cuh"

#include <algorithm>
#include <cstring>
#include <memory>

#include "native/cuda/kernel.cuh"

namespace {

// Up: small uploads share a chunk, so that those of many training steps are under way at once. A
// chunk is free when the device has passed its copies, and waiting for that holds up every queue.
constexpr int64_t kUpBytes = int64_t{1} << 20;
constexpr int64_t kUpAlignment = 64;
constexpr int kUpChunks = 16;
constexpr int64_t kDownBytes = int64_t{4} << 20;

}  // namespace

struct FuselmPluginQueue {
  int ordinal = 0;
  cudaStream_t stream = nullptr;
  // Host to device, in chunks; free[i] is recorded behind the last copy out of chunk i. Pinned when
  // first needed.
  std::byte* up = nullptr;
  cudaEvent_t free[kUpChunks] = {};
  int chunk = 0;
  int64_t filled = 0;         // bytes of the chunk that copies use
  std::byte* down = nullptr;  // device to host: used in stream order only
};

struct FuselmPluginFence {
  int ordinal = 0;
  cudaEvent_t event = nullptr;
};

namespace fuselm::cuda {
namespace {

struct ChunkToHost {
  void* to;
  const void* from;
  size_t bytes;
};

void CUDART_CB MoveChunk(void* data) {
  const std::unique_ptr<ChunkToHost> chunk(static_cast<ChunkToHost*>(data));
  std::memcpy(chunk->to, chunk->from, chunk->bytes);
}

std::byte* Pinned(int64_t bytes) {
  void* memory = nullptr;
  Check(cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault), "pinned staging");
  return static_cast<std::byte*>(memory);
}

void Release(FuselmPluginQueue* q) {
  for (cudaEvent_t event : q->free) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (q->up != nullptr) cudaFreeHost(q->up);
  if (q->down != nullptr) cudaFreeHost(q->down);
  if (q->stream != nullptr) cudaStreamDestroy(q->stream);
  cudaGetLastError();  // of nobody's interest, and the next launch would be blamed for it
  delete q;
}

int QueueCreate(int32_t device, int32_t priority, FuselmPluginQueue** out) {
  *out = nullptr;
  return Guard([&] {
    std::unique_ptr<FuselmPluginQueue, void (*)(FuselmPluginQueue*)> queue(new FuselmPluginQueue,
                                                                           Release);
    queue->ordinal = Ordinal(device);
    UseQueue(queue.get());
    int lowest = 0, highest = 0;  // CUDA counts down: highest <= lowest
    Check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "stream priorities");
    const int wanted = std::clamp(lowest - priority, highest, lowest);
    Check(cudaStreamCreateWithPriority(&queue->stream, cudaStreamNonBlocking, wanted), "stream");
    for (cudaEvent_t& event : queue->free) {
      Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
            "event");
    }
    *out = queue.release();
  });
}

int QueueDestroy(FuselmPluginQueue* queue) {
  return Guard([&] {
    UseQueue(queue);
    const cudaError_t status = cudaStreamSynchronize(queue->stream);
    Release(queue);
    Check(status, "queue_destroy");
  });
}

// Where to put `bytes`, at most a chunk, for a copy that is enqueued next.
std::byte* Staging(FuselmPluginQueue* q, int64_t bytes) {
  if (q->up == nullptr) q->up = Pinned(kUpBytes * kUpChunks);
  if (q->filled + bytes > kUpBytes) {
    Check(cudaEventRecord(q->free[q->chunk], q->stream), "copy to device");
    q->chunk = (q->chunk + 1) % kUpChunks;
    q->filled = 0;
    // An event never recorded counts as done.
    Check(cudaEventSynchronize(q->free[q->chunk]), "copy to device");
  }
  std::byte* const at = q->up + q->chunk * kUpBytes + q->filled;
  q->filled += CeilDiv(bytes, kUpAlignment) * kUpAlignment;
  return at;
}

int CopyToDevice(FuselmPluginQueue* queue, void* to, const void* from, int64_t bytes) {
  return Guard([&] {
    UseQueue(queue);
    for (int64_t done = 0; done < bytes; done += kUpBytes) {
      const int64_t count = std::min(kUpBytes, bytes - done);
      std::byte* const staging = Staging(queue, count);
      std::memcpy(staging, static_cast<const std::byte*>(from) + done, static_cast<size_t>(count));
      Check(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, staging, static_cast<size_t>(count),
                            cudaMemcpyHostToDevice, queue->stream),
            "copy to device");
    }
  });
}

int CopyToHost(FuselmPluginQueue* queue, void* to, const void* from, int64_t bytes) {
  return Guard([&] {
    UseQueue(queue);
    if (queue->down == nullptr) queue->down = Pinned(kDownBytes);
    for (int64_t done = 0; done < bytes; done += kDownBytes) {
      const auto count = static_cast<size_t>(std::min(kDownBytes, bytes - done));
      auto chunk = std::make_unique<ChunkToHost>(
          ChunkToHost{static_cast<std::byte*>(to) + done, queue->down, count});
      Check(cudaMemcpyAsync(queue->down, static_cast<const std::byte*>(from) + done, count,
                            cudaMemcpyDeviceToHost, queue->stream),
            "copy to host");
      Check(cudaLaunchHostFunc(queue->stream, MoveChunk, chunk.get()), "copy to host");
      chunk.release();  // MoveChunk frees it
    }
  });
}

int Fill(FuselmPluginQueue* queue, void* to, int32_t byte, int64_t bytes) {
  return Guard([&] {
    UseQueue(queue);
    Check(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), queue->stream), "fill");
  });
}

// On a thread that has no current device, a call about an event would make a context on device 0.
void UseDeviceOf(const FuselmPluginFence* fence) {
  Check(cudaSetDevice(fence->ordinal), "set device");
}

int FenceCreate(int32_t device, FuselmPluginFence** out) {
  *out = nullptr;
  return Guard([&] {
    auto fence = std::make_unique<FuselmPluginFence>();
    fence->ordinal = Ordinal(device);
    UseDeviceOf(fence.get());
    Check(cudaEventCreateWithFlags(&fence->event, cudaEventDisableTiming | cudaEventBlockingSync),
          "fence");
    *out = fence.release();
  });
}

int FenceDestroy(FuselmPluginFence* fence) {
  return Guard([&] {
    const std::unique_ptr<FuselmPluginFence> owned(fence);
    UseDeviceOf(fence);
    Check(cudaEventDestroy(owned->event), "fence_destroy");
  });
}

int FenceRecord(FuselmPluginFence* fence, FuselmPluginQueue* queue) {
  return Guard([&] {
    UseQueue(queue);
    Check(cudaEventRecord(fence->event, queue->stream), "fence_record");
  });
}

int FenceDone(FuselmPluginFence* fence, int32_t* done) {
  *done = 0;
  return Guard([&] {
    UseDeviceOf(fence);
    const cudaError_t status = cudaEventQuery(fence->event);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return;
    }
    Check(status, "work before a fence");
    *done = 1;
  });
}

int FenceWait(FuselmPluginFence* fence) {
  return Guard([&] {
    UseDeviceOf(fence);
    Check(cudaEventSynchronize(fence->event), "work before a fence");
  });
}

int QueueWait(FuselmPluginQueue* queue, FuselmPluginFence* fence) {
  return Guard([&] {
    UseQueue(queue);
    Check(cudaStreamWaitEvent(queue->stream, fence->event, 0), "queue_wait");
  });
}

}  // namespace

void UseQueue(FuselmPluginQueue* queue) { Check(cudaSetDevice(queue->ordinal), "set device"); }

cudaStream_t Stream(FuselmPluginQueue* queue) { return queue->stream; }

int OrdinalOf(FuselmPluginQueue* queue) { return queue->ordinal; }

void FillQueueFunctions(FuselmDevicePlugin* plugin) {
  plugin->queue_create = QueueCreate;
  plugin->queue_destroy = QueueDestroy;
  plugin->copy_to_device = CopyToDevice;
  plugin->copy_to_host = CopyToHost;
  plugin->fill = Fill;
  plugin->fence_create = FenceCreate;
  plugin->fence_destroy = FenceDestroy;
  plugin->fence_record = FenceRecord;
  plugin->fence_done = FenceDone;
  plugin->fence_wait = FenceWait;
  plugin->queue_wait = QueueWait;
}

}  // namespace fuselm::cuda
