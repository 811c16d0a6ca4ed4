// One environment's tie between the executor and its JavaScript thread, and the list of all of
// them that the process closes when it ends without running environment hooks.
#pragma once

#include <node_api.h>

#include <memory>
#include <mutex>

#include "native/core/runtime.h"

namespace fuselm::binding {

// The executor notifies from its thread while JavaScript may be closing: `mutex_` decides who comes
// first, so that nobody calls a released thread-safe function.
class Session {
 public:
  // Called on the JavaScript thread when completions wait.
  using Deliver = void (*)(napi_env env, void* owner);

  static std::shared_ptr<Session> Open(napi_env env, const DeviceOptions& options, Deliver deliver,
                                       void* owner);
  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Environment& environment() { return *environment_; }
  Device& device() { return *device_; }

  // Holds the process open while something is awaited. JavaScript thread only.
  void Ref(napi_env env);
  void Unref(napi_env env);

  // JavaScript thread: closes the environment and gives the thread-safe function back.
  void Close();
  // From atexit, when no JavaScript runs any more: closes the environment, touches nothing of Node.
  void Abandon();

 private:
  void Notify();
  // Stops notifications; the thread-safe function, if it was still ours to release.
  napi_threadsafe_function Detach();

  std::mutex mutex_;
  napi_threadsafe_function function_ = nullptr;  // null once detached
  std::shared_ptr<Device> device_;
  std::unique_ptr<Environment> environment_;
  Deliver deliver_ = nullptr;
  void* owner_ = nullptr;  // JavaScript thread only; null once closed
};

}  // namespace fuselm::binding
