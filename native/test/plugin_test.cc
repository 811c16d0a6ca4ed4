// A plugin that is missing, no library, or not ours is a status with a reason, never a failure.
#include <dlfcn.h>

#include <cstdlib>

#include "native/core/plugin_loader.h"
#include "native/test/harness.h"

namespace fuselm::test {
namespace {

void Unusable(const PluginStatus& status, const std::string& reason) {
  CHECK(status.plugin == nullptr && !status.usable());
  if (status.reason.find(reason) == std::string::npos) {
    Fail(__FILE__, __LINE__, "expected '" + reason + "' in: " + status.reason);
  }
}

TEST(plugin_missing_file) {
  const PluginStatus status = LoadCudaPlugin("/nowhere/libfuselm_cuda.so");
  CHECK_EQ(status.path, "/nowhere/libfuselm_cuda.so");
  Unusable(status,
           "is not installed (/nowhere/libfuselm_cuda.so: no such file); npm install fuselm-cuda");
}

TEST(plugin_not_a_library) { Unusable(LoadCudaPlugin("/proc/self/status"), "could not be opened"); }

TEST(plugin_of_someone_else) {
  Dl_info library;  // the C library: surely loadable
  CHECK(dladdr(reinterpret_cast<void*>(&std::atoi), &library) != 0);
  Unusable(LoadCudaPlugin(library.dli_fname), "is not a fuselm plugin");
}

TEST(plugin_path_from_environment) {
  setenv("FUSELM_CUDA_PLUGIN", "/elsewhere/plugin.so", 1);
  const PluginStatus status = LoadCudaPlugin();
  unsetenv("FUSELM_CUDA_PLUGIN");
  CHECK_EQ(status.path, "/elsewhere/plugin.so");
}

TEST(plugin_is_looked_for_beside_this_file) {
  CHECK(LoadCudaPlugin().path.ends_with("/libfuselm_cuda.so"));
}

}  // namespace
}  // namespace fuselm::test
