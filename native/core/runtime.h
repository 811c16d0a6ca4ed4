// The native side without Node: what the binding, the C++ tests and the fuzzer call.
// Command records are described in docs/architecture.md, "The command format".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/core/error.h"
#include "native/core/kernel.h"

namespace fuselm {

enum class DeviceKind : uint8_t { kCpu, kCuda };

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  int ordinal = 0;                // which of the plugin's devices
  std::string plugin;             // its path; empty: the usual places
  Level max_level = Level::kAmx;  // a cap; the machine's own level is the other
  int threads = 0;                // 0: min(affinity, container CPU quota)
  int64_t memory_limit = 0;       // bytes held from the system, cache included; 0: none
  // For tests: every buffer and workspace ends at an inaccessible page and starts as 0xff bytes
  // (NaN in every float type), so a kernel that reads or writes past its end faults. Slow.
  bool guard = false;
};

// A kernel as registered for one level. A call runs the best variant under the cap that takes the
// dtype of its first floating argument.
struct KernelVariant {
  Level level;
  uint32_t dtypes;
  int64_t executions;   // since the device opened; calls that threw are not counted
  int64_t nanoseconds;  // time inside, without commands of other queues run between its tiles
};

// One kernel as this device will run it.
struct DeviceKernel {
  std::string signature;
  KernelInfo info;     // the best registered level under the cap
  uint32_t dtypes;     // union over the levels that may run
  int64_t executions;  // of all variants
  int64_t nanoseconds;
  std::vector<KernelVariant> variants;  // best level first
};

struct MemoryStats {
  int64_t live_bytes = 0;  // in buffers; exact after a fence
  int64_t live_buffers = 0;
  int64_t peak_bytes = 0;
  int64_t cached_bytes = 0;     // kept for reuse
  int64_t workspace_bytes = 0;  // scratch and workspaces held by the pool
};

// One executed command, when tracing is on.
struct TraceEvent {
  uint32_t code;  // kernel index + kFirstKernelCode, or a control code
  uint32_t queue;
  uint32_t step;
  int64_t start_ns, end_ns;
  int64_t bytes;  // of all tensor arguments
  std::string shapes;
};

class DeviceImpl;
// Memory, thread pool and kernels: per process, shared by all environments that open the same
// options, closed with the last of them.
class Device {
 public:
  static std::shared_ptr<Device> Open(const DeviceOptions& options);
  ~Device();
  // What kernels are compiled for: an instruction level, or the plugin's name.
  const char* level() const;
  // "cpu", or as the driver names the GPU.
  const char* name() const;
  int threads() const;
  std::vector<DeviceKernel> kernels() const;
  MemoryStats memory() const;
  // Test hook: the nth allocation from now fails (1 is the next one); 0 turns it off.
  void FailAllocation(int64_t nth);
  void SetTracing(bool on);
  std::vector<TraceEvent> TakeTrace();

 private:
  friend class Environment;
  Device();
  std::unique_ptr<DeviceImpl> impl_;
};

// Highest level this CPU and kernel can run (asks the operating system for AMX tile state).
Level MachineLevel();
int DefaultThreads();

struct Completion {
  uint32_t token;
  bool ok;
  ErrorCode code;       // when !ok
  std::string message;  // names op, shapes and step
  uint32_t step;        // of the failing command
};

class EnvironmentImpl;
// One per Node environment: the buffer table, the queues, the completions.
class Environment {
 public:
  // `notify` is called on the executor's thread, with no lock held, when the first completion since
  // the last TakeCompletions waits; never after Close returned.
  Environment(std::shared_ptr<Device> device, std::function<void()> notify);
  ~Environment();  // Close()
  uint32_t CreateQueue(int priority);
  // Copies the words, then checks record framing; throws Error(kFormat) and enqueues nothing when
  // a record is malformed. What can only be known at execution fails there.
  void Submit(uint32_t queue, std::span<const uint32_t> words);
  // Memory that a later `read` (written) or `upload` (read) record with this token uses. It must
  // stay valid until the token's completion is taken.
  void RegisterHost(uint32_t token, void* data, size_t bytes);
  std::vector<Completion> TakeCompletions();
  // Commands of this owner that are submitted and unstarted are drained: kernels are skipped and
  // their outputs poisoned (kAborted); every control still acts. The running one ends at its next
  // tile, unless it is transactional. What is submitted later runs.
  void Cancel(uint32_t owner);
  // Commands submitted and not yet executed, over all queues, and the bytes they hold: the records
  // (with the data inline in `write`) and the host memory of uploads.
  int64_t pending_commands() const;
  int64_t pending_bytes() const;
  // The first failure of a command since the last call, whether or not anything read what it
  // poisoned: lets `device.sync()` report what nobody awaited. Cancelled commands are not failures.
  std::optional<Completion> TakeFailure();
  // Drains all queues (unfinished tokens complete as kAborted, for TakeCompletions), waits for the
  // running command's next tile, frees the buffer table. Any thread; a second call does nothing.
  void Close();

 private:
  std::unique_ptr<EnvironmentImpl> impl_;
};

// Control codes; kernels follow from kFirstKernelCode in the order of Device::kernels().
enum Control : uint32_t {
  kAlloc = 1,   // id, bytes lo, bytes hi, for_code (kernel the buffer is for, for messages)
  kFree = 2,    // id
  kWrite = 3,   // id, offset lo, hi (bytes), bytes, then the bytes inline, padded to words
  kUpload = 4,  // id, offset lo, hi, token: from registered host memory; completes the token
  kRead = 5,    // id, offset lo, hi, bytes lo, hi, token: into registered host memory; completes it
                // (not ok, with the first failure, when the buffer is poisoned)
  kFence = 6,   // token: completes when all before it on this queue is done
  kSignal = 7,  // event; an event id is signalled once in an environment's life, from 1 upwards
  kWait = 8,    // event: later commands of this queue wait for its signal; any number may wait
  kMark = 9,    // step: names the step in errors and traces
  kMend = 10,   // id: what the buffer holds counts as valid again, whatever failed to write it; for
                // who knows which part of it still stands
};
inline constexpr uint32_t kFirstKernelCode = 16;
inline constexpr uint32_t kMaxBufferId = (1u << 24) - 1;

}  // namespace fuselm
