// Writes command records and runs them on a device, as the binding does.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "native/core/runtime.h"

namespace fuselm::test {

// One tensor argument; no strides means contiguous, id 0 means absent.
struct Arg {
  uint32_t id = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides = {};
  int64_t offset = 0;
  DType dtype = DType::kF32;
};

class Commands {
 public:
  explicit Commands(const Device& device);
  std::vector<uint32_t> words;
  uint32_t owner = 0;

  Commands& Alloc(uint32_t id, int64_t bytes, const std::string& kernel = "");
  Commands& Free(uint32_t id);
  Commands& Write(uint32_t id, int64_t offset, std::span<const std::byte> data);
  Commands& WriteFloats(uint32_t id, const std::vector<float>& values, int64_t offset_bytes = 0);
  Commands& Upload(uint32_t id, int64_t offset, uint32_t token);
  Commands& Read(uint32_t id, int64_t offset, int64_t bytes, uint32_t token);
  Commands& Fence(uint32_t token);
  Commands& Signal(uint32_t event);
  Commands& Wait(uint32_t event);
  Commands& Mark(uint32_t step);
  Commands& Mend(uint32_t id);
  Commands& Kernel(const std::string& op, const std::vector<Arg>& args,
                   const std::vector<double>& attributes = {});
  uint32_t CodeOf(const std::string& op) const;

 private:
  Commands& Control(uint32_t code, std::initializer_list<uint32_t> fields);
  std::map<std::string, uint32_t> codes_;  // by op name
};

// An environment on a device, with completions awaited by token.
class Session {
 public:
  explicit Session(std::shared_ptr<Device> device);
  explicit Session(const DeviceOptions& options = {.threads = 2})
      : Session(Device::Open(options)) {}
  ~Session();

  Commands Begin() const { return Commands(*device); }
  void Submit(const Commands& commands, uint32_t queue = 0);
  // Fails the test after 30 s.
  Completion Await(uint32_t token);
  bool Done(uint32_t token);
  void Fence(uint32_t queue = 0);
  uint32_t NewToken() { return next_token_++; }
  // Reads a buffer; throws Error when it is poisoned.
  std::vector<float> Floats(uint32_t id, size_t count, uint32_t queue = 0);

  std::shared_ptr<Device> device;
  std::unique_ptr<Environment> environment;

 private:
  void Collect();

  std::mutex mutex_;
  std::condition_variable arrived_;
  bool notified_ = false;
  std::map<uint32_t, Completion> done_;
  uint32_t next_token_ = 1'000'000;
};

// The toy kernels' shared state (toy_kernels.cc).
struct Toys {
  std::mutex mutex;
  std::vector<int> log;  // tags of toy.log, and of toy.spin when it ends
  std::atomic<bool> spinning{false};
  std::atomic<bool> release{false};  // ends toy.hold
  std::atomic<int64_t> tiles{0};     // run by toy.spin since the last Reset
  std::vector<int> TakeLog();
  void Reset();
};
Toys& TheToys();

// Lets toy.spin start, then returns.
void AwaitSpinning();

}  // namespace fuselm::test
