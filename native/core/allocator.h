// The caching allocator: memory comes from its source once and is reused in place, because the
// first touch of a fresh page costs microseconds, and a device's own allocation waits for the
// device.
//
// Two tiers. Up to kSmallLimit, size classes (four per doubling) out of slabs of one class each.
// Above, best fit over segments of the source, split and coalesced. Slabs are themselves blocks of
// the second tier. All calls are thread-safe.
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

class Allocator;
struct Slab;
struct Span;

// Memory handed out: `bytes` is what was asked for, `held` what it takes.
struct Block {
  std::byte* data = nullptr;
  int64_t bytes = 0;
  int64_t held = 0;
  Slab* slab = nullptr;
  Span* span = nullptr;
  Allocator* owner = nullptr;
  explicit operator bool() const { return data != nullptr; }
};

enum class MemoryUse { kBuffer, kWorkspace };

// Where allocators get whole segments. Several may share one, and with it the limit. Thread-safe as
// far as its users are: each calls under a lock of its own, so counts are atomic.
class MemorySource {
 public:
  MemorySource(int64_t limit, bool guard, int64_t segment)
      : guard(guard), segment(segment), limit_(limit) {}
  virtual ~MemorySource() = default;

  // Null when the system or the limit refuses; throws Error when a device fails otherwise.
  std::byte* Take(int64_t bytes);
  void Give(std::byte* data, int64_t bytes);
  // One block that ends where nothing may be touched, as far as the source can; filled with 0xff.
  bool TakeGuarded(Block& block, int64_t bytes);
  void GiveGuarded(Block& block);

  int64_t limit() const { return limit_; }
  // Test hook: whether this allocation is the one that fails.
  bool FailNow();
  void FailAllocation(int64_t nth) { fail_at_ = nth; }

  const bool guard;
  const int64_t segment;  // asked for at once, when the limit allows

 protected:
  // Null when there is no memory; throws Error for what else goes wrong.
  virtual std::byte* Map(int64_t bytes) = 0;
  virtual void Unmap(std::byte* data, int64_t bytes) = 0;
  // Fills in data, held and, as the source likes, span.
  virtual bool MapGuarded(Block& block, int64_t bytes) = 0;
  virtual void UnmapGuarded(Block& block) = 0;

 private:
  class Reservation;
  bool Reserve(int64_t bytes);

  const int64_t limit_;
  std::atomic<int64_t> reserved_{0};
  std::atomic<int64_t> fail_at_{0};  // counts down
};

// The process's own memory, on 2 MiB pages where the system has them.
class SystemMemory final : public MemorySource {
 public:
  SystemMemory(int64_t limit, bool guard);

 private:
  std::byte* Map(int64_t bytes) override;
  void Unmap(std::byte* data, int64_t bytes) override;
  bool MapGuarded(Block& block, int64_t bytes) override;
  void UnmapGuarded(Block& block) override;
};

class Allocator {
 public:
  explicit Allocator(MemorySource& source);
  ~Allocator();  // precondition: every block was freed
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // Uninitialised, kAlignment-aligned, never null, for 0 bytes too. When the system or the limit
  // refuses, the cache is given back and it is tried once more (with `try_only`: the empty block);
  // then throws Error(kOutOfMemory) with byte counts, `purpose` in the message.
  Block Allocate(int64_t bytes, MemoryUse use, const std::string& purpose, bool try_only = false);
  void Free(Block& block, MemoryUse use);
  // Gives every wholly unused segment back to the system.
  void ReleaseCache();
  MemoryStats stats() const;

 private:
  struct BySize {
    using is_transparent = void;
    bool operator()(const Span* a, const Span* b) const;
    bool operator()(const Span* a, int64_t size) const;
  };

  bool TryAllocate(Block& block, int64_t bytes);
  bool AllocateSmall(Block& block, int64_t bytes);
  Span* TakeSpan(int64_t bytes);
  void ReturnSpan(Span* span);
  void ReleaseCacheLocked();

  static constexpr int kClasses = 64;
  MemorySource& source_;
  mutable std::mutex mutex_;
  std::set<Span*, BySize> free_spans_;
  std::array<std::vector<Slab*>, kClasses> open_slabs_;  // with room, per class
  std::vector<Slab*> slabs_;
  MemoryStats stats_;
  int64_t reserved_ = 0;  // from the source
  int64_t held_ = 0;      // of which handed out
};

}  // namespace fuselm
