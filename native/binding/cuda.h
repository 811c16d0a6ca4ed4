#pragma once

#include <napi.h>

namespace fuselm::binding {

// cudaStatus(path?: string): NativeCudaStatus of lib/runtime/native.ts. Never throws for a missing
// plugin, driver or GPU: the reason is in the result.
Napi::Value CudaStatus(const Napi::CallbackInfo& info);

}  // namespace fuselm::binding
