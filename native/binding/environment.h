// The JavaScript class `Environment`: the whole interface of the addon (lib/runtime/native.ts).
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "native/binding/session.h"

namespace fuselm::binding {

class EnvironmentObject : public Napi::ObjectWrap<EnvironmentObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  // new Environment({ level, threads, memoryLimit, guard }, onCompletion)
  explicit EnvironmentObject(const Napi::CallbackInfo& info);
  ~EnvironmentObject() override;

 private:
  Napi::Value Level(const Napi::CallbackInfo& info);
  Napi::Value Name(const Napi::CallbackInfo& info);
  Napi::Value Threads(const Napi::CallbackInfo& info);
  Napi::Value CreateQueue(const Napi::CallbackInfo& info);
  Napi::Value Submit(const Napi::CallbackInfo& info);
  void RegisterHost(const Napi::CallbackInfo& info);
  void Cancel(const Napi::CallbackInfo& info);
  Napi::Value PendingCommands(const Napi::CallbackInfo& info);
  Napi::Value PendingBytes(const Napi::CallbackInfo& info);
  Napi::Value Memory(const Napi::CallbackInfo& info);
  Napi::Value Kernels(const Napi::CallbackInfo& info);
  Napi::Value TakeFailure(const Napi::CallbackInfo& info);
  void SetTracing(const Napi::CallbackInfo& info);
  Napi::Value TakeTrace(const Napi::CallbackInfo& info);
  void AdjustExternalMemory(const Napi::CallbackInfo& info);
  void FailAllocation(const Napi::CallbackInfo& info);
  void Ref(const Napi::CallbackInfo& info);
  void Unref(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  Session& Open();  // throws Error(kDevice) once closed
  void Deliver(Napi::Env env);
  void CloseNow();
  static void AtCleanup(void* self);

  napi_env env_;
  std::shared_ptr<Session> session_;  // null once closed
  Napi::FunctionReference on_completion_;
  // Keeps registered memory from being collected until its token's completion is taken.
  std::unordered_map<uint32_t, Napi::Reference<Napi::ArrayBuffer>> host_;
};

}  // namespace fuselm::binding
