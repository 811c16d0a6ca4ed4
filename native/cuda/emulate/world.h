// Inside the stand-in: everything the calls of runtime.h share, behind one lock.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "native/cuda/emulate/cuda_runtime.h"

namespace fuselm::emulate {

class Stream;

// A point in a stream's work.
struct Marker {
  bool done = false;
  Stream* stream = nullptr;  // lives while the marker is not done
};
using MarkerPtr = std::shared_ptr<Marker>;

// One of: something to run, a marker to wait for, a marker that is reached.
struct Work {
  std::function<void()> run = {};
  MarkerPtr waits = {}, reached = {};
  const std::byte* pinned = nullptr;  // memory of the host that `run` uses
};

class Stream final : public EmulatedStream {
 public:
  explicit Stream(int on) : device(on) {}
  void Enqueue(std::function<void()> work) override;  // for other libraries: takes the lock
  void Add(Work work);
  // Runs what is first, unless that waits for something that is not done.
  bool Step();

  const int device;
  bool destroyed = false;
  std::deque<Work> work;
};

constexpr int kMostDevices = 8;

struct World {
  World();

  std::mutex mutex;
  // Settings.
  bool late = false;
  uint64_t random = 0, schedule = 0;
  bool break_waits = false, break_staging = false;
  int driver = CUDART_VERSION, devices = 1, compute = 80;
  int64_t memory = int64_t{8} << 30, fault_at = 0;
  std::string log;

  cudaError_t fault = cudaSuccess;  // sticky
  std::string fault_text;
  bool unloaded = false;
  int64_t kernels = 0;
  std::array<bool, kMostDevices> contexts{};
  std::array<int64_t, kMostDevices> used{};
  std::vector<std::unique_ptr<Stream>> streams;
  struct Allocation {
    size_t bytes;
    int device;
  };
  std::map<const std::byte*, Allocation> memory_of_device;
  std::map<const std::byte*, size_t> pinned;

  uint32_t Draw(uint32_t below);
  // Work until the marker is reached, in an order of the seed.
  void Reach(const MarkerPtr& marker);
  // All work of all streams.
  void Drain();
  void Progress();  // some work, perhaps
  void Fault(cudaError_t error, const std::string& text);
};
World& TheWorld();  // never destroyed

// What the device would punish at random, now.
[[noreturn]] void Fatal(const std::string& what);

}  // namespace fuselm::emulate
