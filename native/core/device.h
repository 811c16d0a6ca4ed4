// The parts of an open device, in the order they depend on each other.
#pragma once

#include <memory>
#include <string>

#include "native/core/backend.h"
#include "native/core/executor.h"
#include "native/core/kernel_table.h"
#include "native/core/runtime.h"
#include "native/core/thread_pool.h"
#include "native/core/trace.h"

namespace fuselm {

class DeviceImpl {
 public:
  DeviceImpl(std::string device_name, std::span<const KernelInfo> available, Level cap, int threads,
             bool guard, std::unique_ptr<Backend> where)
      : name(std::move(device_name)),
        backend(std::move(where)),
        kernels(available, cap),
        pool(threads),
        executor(kernels, *backend, pool, trace, guard) {}

  const std::string name;
  const std::unique_ptr<Backend> backend;
  KernelTable kernels;
  ThreadPool pool;
  Trace trace;
  Executor executor;
};

}  // namespace fuselm
