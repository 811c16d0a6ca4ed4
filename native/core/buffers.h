// The buffers of one environment. Only the executor's thread touches a table.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "native/core/allocator.h"
#include "native/core/runtime.h"

namespace fuselm {

// Why a value is missing. The earliest of several is the one reported.
struct Failure {
  ErrorCode code;
  std::string message;
  uint32_t step;
  uint64_t order;  // of failing, over the device
};
using FailurePtr = std::shared_ptr<const Failure>;

inline const FailurePtr& Earlier(const FailurePtr& a, const FailurePtr& b) {
  if (!a) return b;
  return b && b->order < a->order ? b : a;
}

struct Buffer {
  Block block;           // empty when its allocation failed
  int64_t bytes = 0;     // as asked for, also then
  uint64_t version = 0;  // commands that have written it
  FailurePtr poison;
  // Commands below on the executor's stack that use it, while one is nested (see Executor).
  uint16_t readers = 0;
  uint16_t writers = 0;
  bool live = false;
};

// Two levels, so that ids cost memory only where they are used.
class BufferTable {
 public:
  // Null when no such buffer lives.
  Buffer* Find(uint32_t id) {
    if (id > kMaxBufferId) return nullptr;
    Page* page = pages_[id / kPageSize].get();
    if (!page) return nullptr;
    Buffer& buffer = (*page)[id % kPageSize];
    return buffer.live ? &buffer : nullptr;
  }
  // The slot of an id up to kMaxBufferId; stays where it is.
  Buffer& Slot(uint32_t id) {
    auto& page = pages_[id / kPageSize];
    if (!page) page = std::make_unique<Page>();
    return (*page)[id % kPageSize];
  }
  template <class F>
  void ForEach(F&& f) {
    for (auto& page : pages_) {
      if (!page) continue;
      for (Buffer& buffer : *page)
        if (buffer.live) f(buffer);
    }
  }

 private:
  static constexpr uint32_t kPageSize = 1024;
  using Page = std::array<Buffer, kPageSize>;
  std::array<std::unique_ptr<Page>, (kMaxBufferId + 1) / kPageSize> pages_;
};

}  // namespace fuselm
