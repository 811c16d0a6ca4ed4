#include "native/core/allocator.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define FUSELM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUSELM_ASAN 1
#endif
#endif
#ifdef FUSELM_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace fuselm {

// A run of bytes in a segment; neighbours are known, so free ones can be joined.
struct Span {
  std::byte* data;
  int64_t bytes;
  Span* before = nullptr;  // in address order within the segment
  Span* after = nullptr;
  bool free = false;
};

struct Slab {
  Span* span;
  int size_class;
  int64_t item;
  std::vector<uint32_t> free_items;
  uint32_t count;
  bool open = true;  // listed in open_slabs_
};

namespace {

constexpr int64_t kSmallLimit = 128 << 10;
constexpr int64_t kSegmentGrain = 2 << 20;
constexpr int64_t kSpanGrain = 4096;

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Four classes per doubling: 64, 128, 192, 256, 320, 384, 448, 512, 640, 768, ...
int ClassOf(int64_t bytes) {
  const int64_t units = std::max<int64_t>(1, (bytes + 63) / 64);
  if (units <= 8) return static_cast<int>(units - 1);
  const int shift = std::bit_width(static_cast<uint64_t>(units - 1)) - 3;
  return static_cast<int>(8 + (shift - 1) * 4 + ((units - 1) >> shift) - 4);
}

int64_t ClassBytes(int size_class) {
  if (size_class < 8) return 64 * (size_class + 1);
  const int shift = (size_class - 8) / 4 + 1;
  return 64 * (((size_class - 8) % 4 + 5ll) << shift);
}

std::string Count(int64_t bytes) { return std::to_string(bytes) + " bytes"; }

}  // namespace

bool Allocator::BySize::operator()(const Span* a, const Span* b) const {
  return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
}
bool Allocator::BySize::operator()(const Span* a, int64_t size) const { return a->bytes < size; }

Allocator::Allocator(MemorySource& source) : source_(source) {}

Allocator::~Allocator() { ReleaseCacheLocked(); }

Block Allocator::Allocate(int64_t bytes, MemoryUse use, const std::string& purpose, bool try_only) {
  std::lock_guard lock(mutex_);
  Block block;
  const bool injected = source_.FailNow();
  if (!injected && bytes >= 0 && bytes <= INT64_MAX / 2 && !TryAllocate(block, bytes)) {
    ReleaseCacheLocked();
    TryAllocate(block, bytes);
  }
  if (!block) {
    if (try_only && !injected) return block;
    throw Error(ErrorCode::kOutOfMemory,
                purpose + ": out of memory: asked for " + Count(bytes) + ", " +
                    Count(stats_.live_bytes) + " in " + std::to_string(stats_.live_buffers) +
                    " buffers, " + Count(stats_.workspace_bytes) + " in workspaces, " +
                    Count(reserved_ - held_) + " cached" +
                    (source_.limit() > 0 ? ", limit " + Count(source_.limit()) : std::string()));
  }
  block.owner = this;
  held_ += block.held;
  if (use == MemoryUse::kBuffer) {
    stats_.live_bytes += bytes;
    stats_.live_buffers += 1;
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.live_bytes);
  } else {
    stats_.workspace_bytes += bytes;
  }
  return block;
}

void Allocator::Free(Block& block, MemoryUse use) {
  if (!block) return;
  std::lock_guard lock(mutex_);
  held_ -= block.held;
  if (use == MemoryUse::kBuffer) {
    stats_.live_bytes -= block.bytes;
    stats_.live_buffers -= 1;
  } else {
    stats_.workspace_bytes -= block.bytes;
  }
  if (source_.guard) {
    reserved_ -= block.held;
    source_.GiveGuarded(block);
  } else if (block.slab) {
    Slab& slab = *block.slab;
    ASAN_POISON_MEMORY_REGION(block.data, slab.item);
    slab.free_items.push_back(static_cast<uint32_t>((block.data - slab.span->data) / slab.item));
    if (!slab.open) {
      slab.open = true;
      open_slabs_[slab.size_class].push_back(&slab);
    }
  } else {
    ReturnSpan(block.span);
  }
  block = {};
}

bool Allocator::TryAllocate(Block& block, int64_t bytes) {
  block.bytes = bytes;
  if (source_.guard) {
    if (!source_.TakeGuarded(block, bytes)) return false;
    reserved_ += block.held;
    return true;
  }
  if (bytes <= kSmallLimit) return AllocateSmall(block, bytes);
  Span* span = TakeSpan(bytes);
  if (!span) return false;
  block.data = span->data;
  block.held = span->bytes;
  block.span = span;
  ASAN_POISON_MEMORY_REGION(span->data, span->bytes);
  ASAN_UNPOISON_MEMORY_REGION(span->data, bytes);
  return true;
}

bool Allocator::AllocateSmall(Block& block, int64_t bytes) {
  const int size_class = ClassOf(bytes);
  auto& open = open_slabs_[size_class];
  if (open.empty()) {
    const int64_t item = ClassBytes(size_class);
    Span* span = TakeSpan(std::clamp<int64_t>(item * 64, 64 << 10, 1 << 20));
    if (!span && !(span = TakeSpan(item))) return false;
    auto slab = std::make_unique<Slab>();
    slab->span = span;
    slab->size_class = size_class;
    slab->item = item;
    slab->count = static_cast<uint32_t>(span->bytes / item);
    for (uint32_t i = slab->count; i-- > 0;) slab->free_items.push_back(i);
    ASAN_POISON_MEMORY_REGION(span->data, span->bytes);
    slabs_.push_back(slab.get());
    open.push_back(slab.release());
  }
  Slab& slab = *open.back();
  block.data = slab.span->data + slab.free_items.back() * slab.item;
  block.held = slab.item;
  block.slab = &slab;
  slab.free_items.pop_back();
  if (slab.free_items.empty()) {
    slab.open = false;
    open.pop_back();
  }
  ASAN_UNPOISON_MEMORY_REGION(block.data, bytes);
  return true;
}

Span* Allocator::TakeSpan(int64_t bytes) {
  bytes = RoundUp(bytes, kSpanGrain);
  auto found = free_spans_.lower_bound(bytes);
  if (found == free_spans_.end()) {
    // Wanted in whole segments; a tight limit still gets what it asked for.
    for (const int64_t size : {RoundUp(std::max(bytes, source_.segment), kSegmentGrain), bytes}) {
      std::byte* data = source_.Take(size);
      if (!data) continue;
      reserved_ += size;
      auto* span = std::make_unique<Span>(Span{data, size}).release();
      span->free = true;
      found = free_spans_.insert(span).first;
      break;
    }
    if (found == free_spans_.end()) return nullptr;
  }
  Span* span = *found;
  free_spans_.erase(found);
  span->free = false;
  if (span->bytes > bytes) {
    auto* rest = std::make_unique<Span>(Span{span->data + bytes, span->bytes - bytes}).release();
    rest->before = span;
    rest->after = span->after;
    if (rest->after) rest->after->before = rest;
    span->after = rest;
    span->bytes = bytes;
    rest->free = true;
    free_spans_.insert(rest);
  }
  return span;
}

void Allocator::ReturnSpan(Span* span) {
  ASAN_POISON_MEMORY_REGION(span->data, span->bytes);
  const auto absorb = [&](Span* into, Span* next) {
    into->bytes += next->bytes;
    into->after = next->after;
    if (into->after) into->after->before = into;
    delete next;
  };
  if (span->after && span->after->free) {
    free_spans_.erase(span->after);
    absorb(span, span->after);
  }
  if (span->before && span->before->free) {
    Span* before = span->before;
    free_spans_.erase(before);
    absorb(before, span);
    span = before;
  }
  span->free = true;
  free_spans_.insert(span);
}

void Allocator::ReleaseCache() {
  std::lock_guard lock(mutex_);
  ReleaseCacheLocked();
}

void Allocator::ReleaseCacheLocked() {
  std::erase_if(slabs_, [&](Slab* slab) {
    if (slab->free_items.size() != slab->count) return false;
    std::erase(open_slabs_[slab->size_class], slab);
    ReturnSpan(slab->span);
    delete slab;
    return true;
  });
  for (auto it = free_spans_.begin(); it != free_spans_.end();) {
    Span* span = *it;
    if (span->before || span->after) {
      ++it;
      continue;
    }
    it = free_spans_.erase(it);
    reserved_ -= span->bytes;
    ASAN_UNPOISON_MEMORY_REGION(span->data, span->bytes);  // whoever gets the addresses next
    source_.Give(span->data, span->bytes);
    delete span;
  }
}

MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  MemoryStats stats = stats_;
  stats.cached_bytes = reserved_ - held_;
  return stats;
}

}  // namespace fuselm
