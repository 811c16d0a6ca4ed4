// Executed commands, kept while tracing is on.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "native/core/runtime.h"

namespace fuselm {

class Trace {
 public:
  static constexpr size_t kMaxEvents = 1 << 20;  // later ones are dropped until TakeTrace

  bool on() const { return on_.load(std::memory_order_relaxed); }
  void Set(bool on) { on_.store(on); }
  void Add(TraceEvent event) {
    std::lock_guard lock(mutex_);
    if (events_.size() < kMaxEvents) events_.push_back(std::move(event));
  }
  std::vector<TraceEvent> Take() {
    std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }

 private:
  std::atomic<bool> on_{false};
  std::mutex mutex_;
  std::vector<TraceEvent> events_;
};

}  // namespace fuselm
