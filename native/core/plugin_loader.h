// Finds and opens device plugins. Nothing here fails: a plugin that is missing or cannot be used is
// a status with a reason, and the CPU serves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "native/core/device_plugin.h"

namespace fuselm {

struct PluginStatus {
  const FuselmDevicePlugin* plugin = nullptr;  // null: not loaded
  std::string path;                            // the file opened or looked for
  std::string reason;                          // why there is no usable device; empty when there is
  std::vector<FuselmDeviceInfo> devices;       // usable ones
  bool usable() const { return !devices.empty(); }
};

// The CUDA plugin: `path`, else FUSELM_CUDA_PLUGIN, else libfuselm_cuda.so beside the file that
// holds this function (the addon). A plugin stays loaded for the life of the process.
PluginStatus LoadCudaPlugin(const std::string& path = {});

}  // namespace fuselm
