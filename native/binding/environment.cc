#include "native/binding/environment.h"

#include <new>
#include <string>
#include <utility>

namespace fuselm::binding {
namespace {

using Napi::Number;
using Napi::Object;
using Napi::String;

// Our errors become JavaScript errors that carry the code; lib/runtime gives them their class.
[[noreturn]] void Throw(Napi::Env env, ErrorCode code, const char* message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("fuselmCode", Number::New(env, static_cast<uint32_t>(code)));
  throw error;
}

template <class F>
auto Guard(Napi::Env env, F&& body) {
  try {
    return body();
  } catch (const Error& e) {
    Throw(env, e.code(), e.what());
  } catch (const std::bad_alloc&) {
    Throw(env, ErrorCode::kOutOfMemory, "out of host memory");
  }
}

Number FromInt(Napi::Env env, int64_t value) {
  return Number::New(env, static_cast<double>(value));
}

// TypeScript has checked its callers; this guards against a wrong caller of the addon itself.
int64_t Integer(const Napi::CallbackInfo& info, size_t i, int64_t min, int64_t max) {
  const Napi::Value value = info[i];
  const double d = value.IsNumber() ? value.As<Number>().DoubleValue() : -1e300;
  if (!(d >= static_cast<double>(min) && d <= static_cast<double>(max)) ||
      d != static_cast<double>(static_cast<int64_t>(d))) {
    throw Error(ErrorCode::kConfig,
                "addon: argument " + std::to_string(i) + " must be an integer in its range");
  }
  return static_cast<int64_t>(d);
}

uint32_t Word(const Napi::CallbackInfo& info, size_t i) {
  return static_cast<uint32_t>(Integer(info, i, 0, 0xffffffffll));
}

DeviceOptions ReadOptions(const Napi::Value& value) {
  if (!value.IsObject()) throw Error(ErrorCode::kConfig, "addon: options must be an object");
  const Object object = value.As<Object>();
  DeviceOptions options;
  const std::string kind = object.Get("kind").ToString();
  if (kind != "cpu" && kind != "cuda") {
    throw Error(ErrorCode::kConfig, "addon: unknown device " + kind);
  }
  options.kind = kind == "cpu" ? DeviceKind::kCpu : DeviceKind::kCuda;
  options.ordinal = object.Get("ordinal").ToNumber().Int32Value();
  options.plugin = object.Get("plugin").ToString();
  const std::string level = object.Get("level").ToString();
  bool known = false;
  for (int i = 0; i < kLevelCount; ++i) {
    if (level == LevelName(static_cast<Level>(i))) {
      options.max_level = static_cast<Level>(i);
      known = true;
    }
  }
  if (!known) throw Error(ErrorCode::kConfig, "addon: unknown level " + level);
  options.threads = object.Get("threads").ToNumber().Int32Value();
  options.memory_limit = object.Get("memoryLimit").ToNumber().Int64Value();
  options.guard = object.Get("guard").ToBoolean().Value();
  return options;
}

Object FromCompletion(Napi::Env env, const Completion& c) {
  Object out = Object::New(env);
  out.Set("code", Number::New(env, static_cast<uint32_t>(c.code)));
  out.Set("message", String::New(env, c.message));
  out.Set("step", Number::New(env, c.step));
  return out;
}

}  // namespace

Napi::Function EnvironmentObject::Define(Napi::Env env) {
  using E = EnvironmentObject;
  return DefineClass(
      env, "Environment",
      {InstanceAccessor<&E::Level>("level"), InstanceAccessor<&E::Name>("name"),
       InstanceAccessor<&E::Threads>("threads"), InstanceMethod<&E::CreateQueue>("createQueue"),
       InstanceMethod<&E::Submit>("submit"), InstanceMethod<&E::RegisterHost>("registerHost"),
       InstanceMethod<&E::Cancel>("cancel"), InstanceMethod<&E::PendingCommands>("pendingCommands"),
       InstanceMethod<&E::PendingBytes>("pendingBytes"), InstanceMethod<&E::Memory>("memory"),
       InstanceMethod<&E::Kernels>("kernels"), InstanceMethod<&E::TakeFailure>("takeFailure"),
       InstanceMethod<&E::SetTracing>("setTracing"), InstanceMethod<&E::TakeTrace>("takeTrace"),
       InstanceMethod<&E::AdjustExternalMemory>("adjustExternalMemory"),
       InstanceMethod<&E::FailAllocation>("failAllocation"), InstanceMethod<&E::Ref>("ref"),
       InstanceMethod<&E::Unref>("unref"), InstanceMethod<&E::Close>("close")});
}

EnvironmentObject::EnvironmentObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<EnvironmentObject>(info), env_(info.Env()) {
  Guard(info.Env(), [&] {
    if (!info[1].IsFunction()) throw Error(ErrorCode::kConfig, "addon: no completion callback");
    on_completion_ = Napi::Persistent(info[1].As<Napi::Function>());
    session_ = Session::Open(
        env_, ReadOptions(info[0]),
        [](napi_env env, void* owner) { static_cast<EnvironmentObject*>(owner)->Deliver(env); },
        this);
    // After the thread-safe function's own hook, so that it runs before it.
    napi_add_env_cleanup_hook(env_, AtCleanup, this);
  });
}

EnvironmentObject::~EnvironmentObject() { CloseNow(); }

void EnvironmentObject::AtCleanup(void* self) { static_cast<EnvironmentObject*>(self)->CloseNow(); }

void EnvironmentObject::CloseNow() {
  if (session_ == nullptr) return;
  napi_remove_env_cleanup_hook(env_, AtCleanup, this);
  std::exchange(session_, nullptr)->Close();
  host_.clear();
  on_completion_.Reset();
}

Session& EnvironmentObject::Open() {
  if (session_ == nullptr) throw Error(ErrorCode::kDevice, "addon: the environment is closed");
  return *session_;
}

void EnvironmentObject::Deliver(Napi::Env env) {
  Napi::HandleScope scope(env);
  try {
    for (const Completion& c : Open().environment().TakeCompletions()) {
      host_.erase(c.token);
      const uint32_t code = c.ok ? 0 : static_cast<uint32_t>(c.code);
      on_completion_.Call({Number::New(env, c.token), Number::New(env, code),
                           String::New(env, c.message), Number::New(env, c.step)});
      if (session_ == nullptr) return;  // the callback closed us
    }
  } catch (const Napi::Error& e) {
    napi_fatal_exception(env, e.Value());
  }
}

Napi::Value EnvironmentObject::Level(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return String::New(info.Env(), Open().device().level()); });
}

Napi::Value EnvironmentObject::Name(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return String::New(info.Env(), Open().device().name()); });
}

Napi::Value EnvironmentObject::Threads(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return Number::New(info.Env(), Open().device().threads()); });
}

Napi::Value EnvironmentObject::CreateQueue(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int priority = static_cast<int>(Integer(info, 0, -1000, 1000));
    return Number::New(info.Env(), Open().environment().CreateQueue(priority));
  });
}

Napi::Value EnvironmentObject::Submit(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const Napi::Value value = info[1];
    if (!value.IsTypedArray() ||
        value.As<Napi::TypedArray>().TypedArrayType() != napi_uint32_array) {
      throw Error(ErrorCode::kFormat, "addon: words must be a Uint32Array");
    }
    const auto words = value.As<Napi::Uint32Array>();
    const auto count =
        static_cast<size_t>(Integer(info, 2, 0, static_cast<int64_t>(words.ElementLength())));
    Environment& environment = Open().environment();
    environment.Submit(Word(info, 0), {words.Data(), count});
    return FromInt(info.Env(), environment.pending_bytes());
  });
}

void EnvironmentObject::RegisterHost(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] {
    if (!info[1].IsArrayBuffer()) throw Error(ErrorCode::kConfig, "addon: not an ArrayBuffer");
    auto memory = info[1].As<Napi::ArrayBuffer>();
    const auto size = static_cast<int64_t>(memory.ByteLength());
    const int64_t offset = Integer(info, 2, 0, size);
    const int64_t bytes = Integer(info, 3, 0, size - offset);
    const uint32_t token = Word(info, 0);
    auto* data = static_cast<std::byte*>(memory.Data());
    Environment& environment = Open().environment();
    host_[token] = Napi::Reference<Napi::ArrayBuffer>::New(memory, 1);
    environment.RegisterHost(token, data + offset, static_cast<size_t>(bytes));
  });
}

void EnvironmentObject::Cancel(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] { Open().environment().Cancel(Word(info, 0)); });
}

Napi::Value EnvironmentObject::PendingCommands(const Napi::CallbackInfo& info) {
  return Guard(info.Env(),
               [&] { return FromInt(info.Env(), Open().environment().pending_commands()); });
}

Napi::Value EnvironmentObject::PendingBytes(const Napi::CallbackInfo& info) {
  return Guard(info.Env(),
               [&] { return FromInt(info.Env(), Open().environment().pending_bytes()); });
}

Napi::Value EnvironmentObject::Memory(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const Napi::Env env = info.Env();
    const MemoryStats m = Open().device().memory();
    Object out = Object::New(env);
    out.Set("liveBytes", FromInt(env, m.live_bytes));
    out.Set("liveBuffers", FromInt(env, m.live_buffers));
    out.Set("peakBytes", FromInt(env, m.peak_bytes));
    out.Set("cachedBytes", FromInt(env, m.cached_bytes));
    out.Set("workspaceBytes", FromInt(env, m.workspace_bytes));
    return out;
  });
}

Napi::Value EnvironmentObject::Kernels(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const Napi::Env env = info.Env();
    Device& device = Open().device();
    const std::vector<DeviceKernel> kernels = device.kernels();
    const auto level_of = [&](fuselm::Level level, int32_t plugin_kernel) {
      return plugin_kernel < 0 ? LevelName(level) : device.level();
    };
    Napi::Array list = Napi::Array::New(env, kernels.size());
    for (uint32_t i = 0; i < kernels.size(); ++i) {
      const DeviceKernel& k = kernels[i];
      Object out = Object::New(env);
      out.Set("signature", String::New(env, k.signature));
      out.Set("dtypes", Number::New(env, k.dtypes));
      out.Set("level", String::New(env, level_of(k.info.level, k.info.plugin_kernel)));
      out.Set("transactional", Napi::Boolean::New(env, k.info.transactional));
      out.Set("executions", FromInt(env, k.executions));
      out.Set("nanoseconds", FromInt(env, k.nanoseconds));
      Napi::Array variants = Napi::Array::New(env, k.variants.size());
      for (uint32_t j = 0; j < k.variants.size(); ++j) {
        const KernelVariant& v = k.variants[j];
        Object variant = Object::New(env);
        variant.Set("level", String::New(env, level_of(v.level, k.info.plugin_kernel)));
        variant.Set("dtypes", Number::New(env, v.dtypes));
        variant.Set("executions", FromInt(env, v.executions));
        variant.Set("nanoseconds", FromInt(env, v.nanoseconds));
        variants.Set(j, variant);
      }
      out.Set("variants", variants);
      list.Set(i, out);
    }
    return list;
  });
}

Napi::Value EnvironmentObject::TakeFailure(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto failure = Open().environment().TakeFailure();
    if (!failure) return info.Env().Null();
    return FromCompletion(info.Env(), *failure);
  });
}

void EnvironmentObject::SetTracing(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] { Open().device().SetTracing(info[0].ToBoolean().Value()); });
}

Napi::Value EnvironmentObject::TakeTrace(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const Napi::Env env = info.Env();
    const std::vector<TraceEvent> events = Open().device().TakeTrace();
    Napi::Array list = Napi::Array::New(env, events.size());
    for (uint32_t i = 0; i < events.size(); ++i) {
      const TraceEvent& e = events[i];
      Object out = Object::New(env);
      out.Set("code", Number::New(env, e.code));
      out.Set("queue", Number::New(env, e.queue));
      out.Set("step", Number::New(env, e.step));
      out.Set("startNs", FromInt(env, e.start_ns));
      out.Set("endNs", FromInt(env, e.end_ns));
      out.Set("bytes", FromInt(env, e.bytes));
      out.Set("shapes", String::New(env, e.shapes));
      list.Set(i, out);
    }
    return list;
  });
}

void EnvironmentObject::AdjustExternalMemory(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] {
    constexpr int64_t kLimit = int64_t{1} << 50;
    Napi::MemoryManagement::AdjustExternalMemory(info.Env(), Integer(info, 0, -kLimit, kLimit));
  });
}

void EnvironmentObject::FailAllocation(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] { Open().device().FailAllocation(Integer(info, 0, 0, int64_t{1} << 40)); });
}

void EnvironmentObject::Ref(const Napi::CallbackInfo& info) {
  if (session_ != nullptr) session_->Ref(info.Env());
}

void EnvironmentObject::Unref(const Napi::CallbackInfo& info) {
  if (session_ != nullptr) session_->Unref(info.Env());
}

void EnvironmentObject::Close(const Napi::CallbackInfo&) { CloseNow(); }

}  // namespace fuselm::binding
