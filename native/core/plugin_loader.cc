#include "native/core/plugin_loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

namespace fuselm {
namespace {

std::string BesideThisFile(const char* name) {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&LoadCudaPlugin), &info) == 0 || info.dli_fname == nullptr) {
    return name;
  }
  const std::string self = info.dli_fname;
  const size_t slash = self.rfind('/');
  return slash == std::string::npos ? std::string("./") + name : self.substr(0, slash + 1) + name;
}

std::string DlError() {
  const char* message = dlerror();
  return message == nullptr ? "unknown error" : message;
}

}  // namespace

PluginStatus LoadCudaPlugin(const std::string& path) {
  PluginStatus status;
  const char* from_environment = std::getenv("FUSELM_CUDA_PLUGIN");
  if (!path.empty()) {
    status.path = path;
  } else if (from_environment != nullptr && *from_environment != '\0') {
    status.path = from_environment;
  } else {
    status.path = BesideThisFile("libfuselm_cuda.so");
  }
  if (access(status.path.c_str(), F_OK) != 0) {
    status.reason =
        "the CUDA plugin is not installed (" + status.path +
        ": no such file); npm install fuselm-cuda brings it, npm run build:cuda builds it";
    return status;
  }
  // NODELETE: unloading a library with a live CUDA context crashes at process exit.
  void* library = dlopen(status.path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    status.reason = "the CUDA plugin could not be opened: " + DlError();
    return status;
  }
  const auto entry =
      reinterpret_cast<FuselmDevicePluginFn>(dlsym(library, FUSELM_DEVICE_PLUGIN_SYMBOL));
  if (entry == nullptr) {
    status.reason = status.path + " is not a fuselm plugin: " + DlError();
    return status;
  }
  const FuselmDevicePlugin* plugin = entry(FUSELM_DEVICE_PLUGIN_ABI);
  if (plugin == nullptr || plugin->abi != FUSELM_DEVICE_PLUGIN_ABI) {
    status.reason = status.path + " was built for another version of fuselm (interface " +
                    std::to_string(FUSELM_DEVICE_PLUGIN_ABI) + " is needed)";
    return status;
  }
  status.plugin = plugin;
  char why[512] = "";
  const int32_t count = plugin->device_count(why, sizeof why);
  for (int32_t i = 0; i < count; ++i) {
    FuselmDeviceInfo info{};
    if (plugin->device_info(i, &info) == 0) {
      status.devices.push_back(info);
    } else {
      status.reason = plugin->last_error();
    }
  }
  if (status.usable()) {
    status.reason.clear();
  } else if (status.reason.empty()) {
    status.reason = why;
  }
  return status;
}

}  // namespace fuselm
