#include <napi.h>

#include "native/binding/cuda.h"
#include "native/binding/environment.h"
#include "native/binding/file_lock.h"
#include "native/core/runtime.h"

namespace {

// Raised with lib/runtime/native.ts (ADDON_ABI) whenever the interface changes.
constexpr int kAbi = 3;

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("abi", Napi::Number::New(env, kAbi));
  exports.Set("machineLevel", Napi::String::New(env, fuselm::LevelName(fuselm::MachineLevel())));
  exports.Set("defaultThreads", Napi::Number::New(env, fuselm::DefaultThreads()));
  exports.Set("cudaStatus", Napi::Function::New(env, fuselm::binding::CudaStatus, "cudaStatus"));
  exports.Set("tryLock", Napi::Function::New(env, fuselm::binding::TryLock, "tryLock"));
  exports.Set("Environment", fuselm::binding::EnvironmentObject::Define(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(fuselm, Init)
