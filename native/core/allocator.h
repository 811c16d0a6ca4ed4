// The caching allocator: memory comes from the system once and is reused in place, because the
// first touch of a fresh page costs microseconds.
//
// Two tiers. Up to kSmallLimit, size classes (four per doubling) out of slabs of one class each.
// Above, best fit over mmap'ed segments, split and coalesced, on 2 MiB pages where the system has
// them. Slabs are themselves blocks of the second tier. All calls are thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "native/core/runtime.h"

namespace fuselm {

inline constexpr int64_t kAlignment = 64;

struct Slab;
struct Span;

// Memory handed out: `bytes` is what was asked for, `held` what it takes.
struct Block {
  std::byte* data = nullptr;
  int64_t bytes = 0;
  int64_t held = 0;
  Slab* slab = nullptr;
  Span* span = nullptr;
  explicit operator bool() const { return data != nullptr; }
};

enum class MemoryUse { kBuffer, kWorkspace };

class Allocator {
 public:
  Allocator(int64_t limit, bool guard);
  ~Allocator();  // precondition: every block was freed
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // Uninitialised, kAlignment-aligned, never null, for 0 bytes too. When the system or the limit
  // refuses, the cache is given back and it is tried once more; then throws Error(kOutOfMemory)
  // with byte counts, `purpose` in the message.
  Block Allocate(int64_t bytes, MemoryUse use, const std::string& purpose);
  void Free(Block& block, MemoryUse use);
  // Gives every wholly unused segment back to the system.
  void ReleaseCache();
  MemoryStats stats() const;
  void FailAllocation(int64_t nth);

 private:
  struct BySize {
    using is_transparent = void;
    bool operator()(const Span* a, const Span* b) const;
    bool operator()(const Span* a, int64_t size) const;
  };

  bool TryAllocate(Block& block, int64_t bytes);
  bool AllocateSmall(Block& block, int64_t bytes);
  bool AllocateGuarded(Block& block, int64_t bytes);
  Span* TakeSpan(int64_t bytes);
  void ReturnSpan(Span* span);
  void ReleaseCacheLocked();
  std::byte* Map(int64_t bytes);
  void Unmap(std::byte* data, int64_t bytes);

  static constexpr int kClasses = 64;
  const int64_t limit_;
  const bool guard_;
  mutable std::mutex mutex_;
  std::set<Span*, BySize> free_spans_;
  std::array<std::vector<Slab*>, kClasses> open_slabs_;  // with room, per class
  std::vector<Slab*> slabs_;
  MemoryStats stats_;
  int64_t reserved_ = 0;  // from the system
  int64_t held_ = 0;      // of which handed out
  int64_t fail_at_ = 0;   // counts down
};

}  // namespace fuselm
