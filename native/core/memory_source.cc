// Segments for the allocator: counting against the limit, and the process's own memory.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "native/core/allocator.h"

namespace fuselm {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kPage = 4096;

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

// Bytes against the limit, given back unless they are kept.
class MemorySource::Reservation {
 public:
  Reservation(MemorySource& source, int64_t bytes)
      : source_(source), bytes_(source.Reserve(bytes) ? bytes : 0) {}
  ~Reservation() { source_.reserved_ -= bytes_; }
  explicit operator bool() const { return bytes_ > 0; }
  void Keep() { bytes_ = 0; }

 private:
  MemorySource& source_;
  int64_t bytes_;
};

bool MemorySource::Reserve(int64_t bytes) {
  int64_t before = reserved_.load();
  do {
    if (limit_ > 0 && (bytes > limit_ || before > limit_ - bytes)) return false;
  } while (!reserved_.compare_exchange_weak(before, before + bytes));
  return true;
}

std::byte* MemorySource::Take(int64_t bytes) {
  Reservation reservation(*this, bytes);
  std::byte* const data = reservation ? Map(bytes) : nullptr;
  if (data != nullptr) reservation.Keep();
  return data;
}

void MemorySource::Give(std::byte* data, int64_t bytes) {
  Unmap(data, bytes);
  reserved_ -= bytes;
}

bool MemorySource::TakeGuarded(Block& block, int64_t bytes) {
  const int64_t held = RoundUp(std::max<int64_t>(bytes, 1), kPage);
  Reservation reservation(*this, held);
  block.held = held;
  const bool mapped = reservation && MapGuarded(block, bytes);
  if (mapped) reservation.Keep();
  return mapped;
}

void MemorySource::GiveGuarded(Block& block) {
  UnmapGuarded(block);
  reserved_ -= block.held;
}

bool MemorySource::FailNow() {
  int64_t left = fail_at_.load();
  while (left > 0) {
    if (fail_at_.compare_exchange_weak(left, left - 1)) return left == 1;
  }
  return false;
}

SystemMemory::SystemMemory(int64_t limit, bool guard) : MemorySource(limit, guard, 16 << 20) {}

std::byte* SystemMemory::Map(int64_t bytes) {
  // Over-map and trim, so that large segments start on a huge page.
  const int64_t slack = !guard && bytes >= kHugePage ? kHugePage : 0;
  void* raw =
      mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  auto* data = static_cast<std::byte*>(raw);
  if (slack > 0) {
    const auto address = reinterpret_cast<uintptr_t>(raw);
    const int64_t head = static_cast<int64_t>((kHugePage - address % kHugePage) % kHugePage);
    if (head > 0) munmap(data, head);
    if (slack > head) munmap(data + head + bytes, slack - head);
    data += head;
    madvise(data, bytes, MADV_HUGEPAGE);
  }
  return data;
}

void SystemMemory::Unmap(std::byte* data, int64_t bytes) { munmap(data, bytes); }

// The block ends at a page nobody may touch (up to the alignment).
bool SystemMemory::MapGuarded(Block& block, int64_t bytes) {
  std::byte* base = Map(block.held + kPage);
  if (base == nullptr) return false;
  mprotect(base + block.held, kPage, PROT_NONE);
  std::memset(base, 0xff, block.held);
  block.data = base + block.held - RoundUp(std::max<int64_t>(bytes, 1), kAlignment);
  block.span = reinterpret_cast<Span*>(base);  // only the address to unmap
  return true;
}

void SystemMemory::UnmapGuarded(Block& block) {
  munmap(reinterpret_cast<std::byte*>(block.span), block.held + kPage);
}

}  // namespace fuselm
