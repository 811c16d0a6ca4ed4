// The state behind Environment: buffers, queues, events, completions.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "native/core/buffers.h"
#include "native/core/runtime.h"

namespace fuselm {

class DeviceImpl;
class EnvironmentImpl;

// An ordered list of records. Guarded by the executor's mutex; the words of the record that runs
// are read without it, which is safe because only finishing it moves the cursor.
struct Queue {
  EnvironmentImpl* environment = nullptr;
  uint32_t id = 0;
  int priority = 0;
  std::deque<std::vector<uint32_t>> batches;
  size_t cursor = 0;       // of the next record, in the first batch
  uint64_t submitted = 0;  // records, ever
  uint64_t started = 0;
  uint64_t served = 0;  // when last, in the executor's count
  bool running = false;
  uint32_t step = 0;  // executor's thread only: from the last mark

  const uint32_t* head() const {
    return batches.empty() ? nullptr : batches.front().data() + cursor;
  }
};

// A set of integers that mostly arrive in order: ranges, so that a long run costs nothing.
class EventSet {
 public:
  void Add(uint32_t event);
  bool Contains(uint32_t event) const;
  size_t ranges() const { return ranges_.size(); }

 private:
  std::map<uint32_t, uint32_t> ranges_;  // first -> last
};

struct HostMemory {
  std::byte* data;
  int64_t bytes;
  int64_t counted = 0;  // in pending_bytes
};

class EnvironmentImpl {
 public:
  EnvironmentImpl(std::shared_ptr<Device> device, DeviceImpl& impl, std::function<void()> notify)
      : keep_alive(std::move(device)), device(impl), notify_(std::move(notify)) {}

  void Complete(Completion completion);
  void Complete(uint32_t token, const FailurePtr& failure);
  // The host memory of a token, which it no longer names.
  std::optional<HostMemory> TakeHost(uint32_t token);
  void NoteFailure(const Failure& failure);

  const std::shared_ptr<Device> keep_alive;
  DeviceImpl& device;

  // Guarded by the executor's mutex.
  std::vector<std::unique_ptr<Queue>> queues;
  EventSet events;
  std::unordered_map<uint32_t, std::vector<uint64_t>> cancelled;  // owner -> records, per queue
  bool closed = false;

  std::atomic<bool> closing{false};
  std::atomic<int64_t> pending_commands{0};
  std::atomic<int64_t> pending_bytes{0};

  // Executor's thread only.
  BufferTable buffers;

  std::mutex mutex;  // guards what follows; taken after the executor's, never before
  std::unordered_map<uint32_t, HostMemory> hosts;
  std::vector<Completion> completions;
  std::optional<Completion> failure;

 private:
  const std::function<void()> notify_;
};

}  // namespace fuselm
