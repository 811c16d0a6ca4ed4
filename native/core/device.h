// The parts of an open device, in the order they depend on each other.
#pragma once

#include "native/core/allocator.h"
#include "native/core/executor.h"
#include "native/core/kernel_table.h"
#include "native/core/runtime.h"
#include "native/core/thread_pool.h"
#include "native/core/trace.h"

namespace fuselm {

class DeviceImpl {
 public:
  DeviceImpl(Level cap, int threads, const DeviceOptions& options)
      : level(cap),
        kernels(RegisteredKernels(), cap),
        allocator(options.memory_limit, options.guard),
        pool(threads),
        executor(kernels, allocator, pool, trace, options.guard) {}

  const Level level;
  KernelTable kernels;
  Allocator allocator;
  ThreadPool pool;
  Trace trace;
  Executor executor;
};

}  // namespace fuselm
