// Who knows of whose accesses: vector clocks of the threads of a block.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "native/cuda/emulate/shadow.h"

namespace fuselm::emulate {

// What a thread, or a barrier between threads, knows.
struct Knowledge {
  // Of threads, in this epoch: those from `low` to `high`, up to which clock. What happened in
  // earlier epochs everybody knows.
  uint64_t epoch = 0;
  int low = 0, high = 0;
  std::vector<uint16_t> seen;
  // Of the asynchronous units, in this block: up to which of their groups or phases all is done.
  std::array<uint16_t, kUnits> done{};
  // Of threads: up to which of their accesses a proxy fence has been made. As Timestamp.
  std::vector<uint64_t> fenced;

  uint16_t Seen(uint64_t now, int thread) const {
    return epoch == now && thread >= low && thread < high ? seen[static_cast<size_t>(thread)] : 0;
  }
  void See(uint64_t now, int thread, uint16_t clock) {
    Widen(now, thread, thread + 1);
    uint16_t& known = seen[static_cast<size_t>(thread)];
    known = std::max(known, clock);
  }
  void Join(const Knowledge& other, uint64_t now) {
    if (other.epoch == now) {
      Widen(now, other.low, other.high);
      for (int i = other.low; i < other.high; ++i) {
        seen[static_cast<size_t>(i)] =
            std::max(seen[static_cast<size_t>(i)], other.seen[static_cast<size_t>(i)]);
      }
    }
    JoinLasting(other);
  }
  // The part that a block barrier does not settle.
  void JoinLasting(const Knowledge& other) {
    for (size_t i = 0; i < done.size(); ++i) done[i] = std::max(done[i], other.done[i]);
    if (fenced.size() < other.fenced.size()) fenced.resize(other.fenced.size());
    for (size_t i = 0; i < other.fenced.size(); ++i) {
      fenced[i] = std::max(fenced[i], other.fenced[i]);
    }
  }
  void Forget() {
    epoch = 0;
    done.fill(0);
    fenced.clear();
  }

 private:
  void Widen(uint64_t now, int from, int to) {
    if (seen.empty()) seen.resize(kMostThreads);
    if (epoch != now) {
      epoch = now;
      low = from, high = to;
      std::fill(seen.begin() + from, seen.begin() + to, uint16_t{0});
      return;
    }
    if (from < low) std::fill(seen.begin() + from, seen.begin() + low, uint16_t{0}), low = from;
    if (to > high) std::fill(seen.begin() + high, seen.begin() + to, uint16_t{0}), high = to;
  }
};

constexpr uint64_t Timestamp(uint64_t epoch, uint64_t clock) { return epoch << 16 | clock; }

}  // namespace fuselm::emulate
