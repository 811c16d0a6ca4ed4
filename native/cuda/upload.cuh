// Host tables for a kernel (lists of pointers), put into device memory by way of kernel
// parameters: in order with the stream, with no staging that has to outlive the call.
#pragma once

#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {

// Enqueues the copy of `bytes`, a multiple of 8, to `to`, 8-byte aligned; `from` is free on return.
void Upload(const Arguments& in, const char* what, void* to, const void* from, int64_t bytes);

}  // namespace fuselm::cuda
