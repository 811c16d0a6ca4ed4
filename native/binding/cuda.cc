#include "native/binding/cuda.h"

#include "native/core/plugin_loader.h"

namespace fuselm::binding {

Napi::Value CudaStatus(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  const PluginStatus status = LoadCudaPlugin(path);
  Napi::Object result = Napi::Object::New(env);
  result.Set("path", Napi::String::New(env, status.path));
  result.Set("loaded", Napi::Boolean::New(env, status.plugin != nullptr));
  result.Set("build", Napi::String::New(env, status.plugin ? status.plugin->build : ""));
  // Asked for only where there is a device: looking for the library opens it.
  const bool usable = status.usable();
  result.Set("matrixLibrary",
             Napi::String::New(env, usable ? status.plugin->matrix_library() : ""));
  result.Set("reason", Napi::String::New(env, status.reason));
  Napi::Array devices = Napi::Array::New(env);
  for (const FuselmDeviceInfo& device : status.devices) {
    Napi::Object item = Napi::Object::New(env);
    item.Set("name", Napi::String::New(env, device.name));
    item.Set("computeCapability",
             Napi::String::New(env, std::to_string(device.compute_major) + "." +
                                        std::to_string(device.compute_minor)));
    item.Set("multiprocessors", Napi::Number::New(env, device.multiprocessors));
    item.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(device.memory_bytes)));
    devices.Set(devices.Length(), item);
  }
  result.Set("devices", devices);
  return result;
}

}  // namespace fuselm::binding
