#include <algorithm>
#include <cstring>

#include "native/core/backend.h"
#include "native/core/executor.h"
#include "native/core/futex.h"

namespace fuselm {
namespace {

constexpr int64_t kCopyTile = 1 << 20;

void Copy(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes <= kCopyTile) {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  struct Closure {
    std::byte* to;
    const std::byte* from;
    int64_t bytes;
  } closure{to, from, bytes};
  frame.Run((bytes + kCopyTile - 1) / kCopyTile,
            [](void* context, int64_t tile, int) {
              const Closure& c = *static_cast<Closure*>(context);
              const int64_t begin = tile * kCopyTile;
              std::memcpy(c.to + begin, c.from + begin,
                          static_cast<size_t>(std::min(kCopyTile, c.bytes - begin)));
            },
            &closure);
}

}  // namespace

Block HostBackend::Allocate(const Queue&, int64_t bytes, MemoryUse use,
                            const std::string& purpose) {
  return allocator_.Allocate(bytes, use, purpose);
}

void HostBackend::Free(const Queue&, Block& block, MemoryUse use) { allocator_.Free(block, use); }

void HostBackend::Invoke(Frame& frame, KernelEntry& kernel) {
  Variant& variant = kernel.Select(frame.command.views);
  Invocation invocation(frame.command.views, frame.command.attributes, frame);
  const int64_t start = NowNs();
  variant.info.fn(invocation);
  variant.executions.fetch_add(1, std::memory_order_relaxed);
  variant.nanoseconds.fetch_add(NowNs() - start - frame.nested_ns, std::memory_order_relaxed);
}

void HostBackend::CopyIn(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) {
  Copy(frame, to, from, bytes);
}

void HostBackend::CopyOut(Frame& frame, std::byte* to, const std::byte* from, int64_t bytes) {
  Copy(frame, to, from, bytes);
}

void HostBackend::Complete(Queue& queue, uint32_t token, const FailurePtr& failure) {
  queue.environment->Complete(token, failure);
}

}  // namespace fuselm
