// Inside the sanitizer: what it knows of a launch. check.cc is told by the emulator, rules.cc
// judges.
#pragma once

#include <array>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "native/cuda/emulate/check.h"
#include "native/cuda/emulate/order.h"
#include "native/cuda/emulate/report.h"

namespace fuselm::emulate {

// Device memory, and whatever is checked at all, is one thread's at a time: that of the launch.
extern std::mutex checked_memory;

struct Mbarrier {
  int unit;
  uint16_t phase = 0;
  Knowledge arrived, passed;  // of the phase under way, of the last complete one
};
struct Named {
  Knowledge arrived, passed;
};

struct Accessor {
  Access access;
  bool writes, atomic, unit;
  uint32_t code;
};

// Of one operating system thread, while it runs a launch.
struct Checker {
  std::unique_lock<std::mutex> lock{checked_memory, std::defer_lock};
  Memory memory{};
  std::string what;
  dim3 grid;
  int threads = 0, thread = -1;
  bool inside = false;                        // what the checker itself touches is nobody's access
  uint64_t launch = 0, block = 0, epoch = 0;  // where each began
  std::vector<std::pair<uint64_t, int64_t>> blocks;  // by the epoch they began
  Shadow dynamic, fixed;
  uintptr_t fixed_start = 0, place_start = 0;
  size_t fixed_bytes = 0;
  std::vector<Bytes> device_bytes, shared_bytes;
  Sets sets;
  std::vector<Knowledge> known;
  std::vector<uint16_t> clock, committed;  // by thread: announced; groups of wgmma
  std::unordered_map<uintptr_t, Mbarrier> mbarriers;
  std::array<Named, 16> named;
  bool lasting = false;  // asynchronous units or proxies are in use

  Knowledge& Known() { return known[static_cast<size_t>(thread)]; }
  // What others may come to know of the running thread.
  void Announce(Knowledge& to) {
    uint16_t& now = clock[static_cast<size_t>(thread)];
    to.Join(Known(), epoch);
    to.See(epoch, thread, now);
    Advance(thread);
  }
  void Advance(int of) {
    if (++clock[static_cast<size_t>(of)] == UINT16_MAX) {
      FailLaunch("more barriers without one of the whole block than the checked build can count");
    }
  }
};

// An access by the running thread, or by a unit that works for it: fails the launch where it is a
// hazard, and is remembered.
void Visit(Checker& c, const void* p, size_t bytes, const Accessor& me);
[[noreturn]] void Fail(const Checker& c, Hazard hazard, const Accessor& me,
                       const std::string& place, const Access* before = nullptr, bool wrote = false,
                       uint32_t code = 0);

}  // namespace fuselm::emulate
