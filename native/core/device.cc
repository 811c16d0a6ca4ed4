#include "native/core/device.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <system_error>

#include "native/core/plugin_backend.h"
#include "native/core/plugin_loader.h"

namespace fuselm {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::chrono::milliseconds kExitLimit{400};

// What makes two devices the same.
struct Identity {
  DeviceKind kind;
  int ordinal;
  std::string plugin;
  Level level;
  int threads;
  int64_t memory_limit;
  bool guard;
  bool operator==(const Identity&) const = default;
};

struct Opened {
  Identity identity;
  std::weak_ptr<Device> device;
  DeviceImpl* impl;
};

// Leaked, as is all that lives until exit: no destructor runs beside a thread of ours.
struct Registry {
  std::mutex mutex;
  std::vector<Opened> devices;
};

Registry& Devices() {
  static auto* registry = new Registry;
  return *registry;
}

// process.exit and an uncaught exception run neither destructors nor cleanup hooks of Node: stop
// the threads at their next tile, so that none runs while the C++ runtime is taken down.
void AtExit() {
  Registry& registry = Devices();
  std::lock_guard lock(registry.mutex);
  // Kept for ever: a device closed from here on stays open.
  static auto* open = new std::vector<std::shared_ptr<Device>>;
  for (const Opened& opened : registry.devices) {
    // One without a strong reference is closing and stops by itself.
    auto device = opened.device.lock();
    if (!device) continue;
    opened.impl->executor.Stop(std::chrono::milliseconds(0));
    open->push_back(std::move(device));
  }
  for (const Opened& opened : registry.devices) {
    if (opened.device.expired()) continue;
    if (opened.impl->executor.Stop(kExitLimit)) opened.impl->executor.Join();
  }
}

std::unique_ptr<DeviceImpl> OpenPlugin(const DeviceOptions& options) {
  const PluginStatus status = LoadCudaPlugin(options.plugin);
  if (!status.usable()) throw Error(ErrorCode::kDevice, "no CUDA device: " + status.reason);
  if (options.ordinal < 0 || static_cast<size_t>(options.ordinal) >= status.devices.size()) {
    throw Error(ErrorCode::kDevice,
                "no CUDA device " + std::to_string(options.ordinal) + ": there " +
                    (status.devices.size() == 1 ? "is one"
                                                : "are " + std::to_string(status.devices.size())));
  }
  const FuselmDevicePlugin& plugin = *status.plugin;
  std::vector<KernelInfo> kernels;
  for (int32_t i = 0; i < plugin.kernel_count; ++i) {
    const FuselmPluginKernel& k = plugin.kernels[i];
    kernels.push_back({k.signature, k.dtypes, nullptr, Level::kGeneric, k.transactional != 0, i});
  }
  return std::make_unique<DeviceImpl>(
      status.devices[static_cast<size_t>(options.ordinal)].name, kernels, Level::kGeneric, 1,
      options.guard,
      std::make_unique<PluginBackend>(plugin, options.ordinal, options.memory_limit,
                                      options.guard));
}

}  // namespace

Device::Device() = default;
Device::~Device() = default;

std::shared_ptr<Device> Device::Open(const DeviceOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    throw Error(ErrorCode::kConfig, "threads must be 0 to " + std::to_string(kMaxThreads) +
                                        ", received " + std::to_string(options.threads));
  }
  if (options.memory_limit < 0) {
    throw Error(ErrorCode::kConfig, "memory limit must not be negative, received " +
                                        std::to_string(options.memory_limit));
  }
  const bool cpu = options.kind == DeviceKind::kCpu;
  const Level level = cpu ? std::min(options.max_level, MachineLevel()) : Level::kGeneric;
  // A device behind a plugin needs the executor's own thread alone.
  const int threads = !cpu ? 1 : options.threads > 0 ? options.threads : DefaultThreads();
  const Identity identity{options.kind, options.ordinal,      options.plugin, level,
                          threads,      options.memory_limit, options.guard};
  Registry& registry = Devices();
  std::lock_guard lock(registry.mutex);
  static const int registered = std::atexit(AtExit);
  static_cast<void>(registered);
  std::erase_if(registry.devices, [](const Opened& o) { return o.device.expired(); });
  for (const Opened& o : registry.devices) {
    if (o.identity == identity) {
      if (auto device = o.device.lock()) return device;
    }
  }
  std::shared_ptr<Device> device(new Device);
  try {
    device->impl_ = cpu ? std::make_unique<DeviceImpl>(
                              "cpu", RegisteredKernels(), level, threads, options.guard,
                              std::make_unique<HostBackend>(options.memory_limit, options.guard,
                                                            LevelName(level)))
                        : OpenPlugin(options);
  } catch (const std::system_error& e) {
    throw Error(ErrorCode::kDevice,
                "cannot start " + std::to_string(threads) + " threads: " + e.what());
  }
  registry.devices.push_back({identity, device, device->impl_.get()});
  return device;
}

const char* Device::level() const { return impl_->backend->level(); }
const char* Device::name() const { return impl_->name.c_str(); }
int Device::threads() const { return impl_->pool.workers(); }
std::vector<DeviceKernel> Device::kernels() const { return impl_->kernels.Describe(); }
MemoryStats Device::memory() const { return impl_->backend->memory(); }
void Device::FailAllocation(int64_t nth) { impl_->backend->FailAllocation(nth); }
void Device::SetTracing(bool on) { impl_->trace.Set(on); }
std::vector<TraceEvent> Device::TakeTrace() { return impl_->trace.Take(); }

}  // namespace fuselm
