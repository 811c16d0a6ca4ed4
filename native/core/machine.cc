// What this machine offers: the instruction level and the number of processors we may use.
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#include "native/core/runtime.h"

namespace fuselm {
namespace {

#if defined(__x86_64__)
struct Leaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf CpuId(uint32_t leaf, uint32_t sub = 0) {
  Leaf r;
  if (!__get_cpuid_count(leaf, sub, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

constexpr bool Has(uint32_t word, std::initializer_list<int> bits) {
  for (const int bit : bits)
    if (!((word >> bit) & 1u)) return false;
  return true;
}

// Which register states the operating system saves (Intel SDM vol. 1, 13.3).
uint64_t EnabledStates() {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

#ifndef FUSELM_EMULATE_AMX
// Tile data is a state that a process must ask for (Linux Documentation/arch/x86/xstate.rst).
bool RequestTileState() {
  constexpr long kReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kReqXcompPerm, kTileData) == 0;
}
#endif

Level Detect() {
  const Leaf one = CpuId(1);
  if (!Has(one.ecx, {12, 27, 28, 29})) return Level::kGeneric;  // fma, osxsave, avx, f16c
  const uint64_t states = EnabledStates();
  const Leaf seven = CpuId(7);
  if ((states & 0x6) != 0x6 || !Has(seven.ebx, {5, 8})) return Level::kGeneric;  // avx2, bmi2
  if ((states & 0xe6) != 0xe6 || !Has(seven.ebx, {16, 17, 30, 31}) ||            // f, dq, bw, vl
      !Has(seven.ecx, {11})) {                                                   // vnni
    return Level::kAvx2;
  }
  if (!Has(CpuId(7, 1).eax, {5})) return Level::kAvx512;
#ifdef FUSELM_EMULATE_AMX
  return Level::kAmx;  // tile instructions are a software model over AVX-512 BF16
#else
  const bool tiles = Has(seven.edx, {22, 24, 25}) && (states & 0x60000) == 0x60000;
  return tiles && RequestTileState() ? Level::kAmx : Level::kAvx512Bf16;
#endif
}
#else
// Other architectures have the generic level alone (native/cpu/levels.cmake).
Level Detect() { return Level::kGeneric; }
#endif

// CPUs allowed by a cgroup's quota at or above `path`; a large number when there is none.
int QuotaV2(std::string path) {
  int best = 1 << 20;
  for (;;) {
    std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
    std::string quota;
    double period = 0;
    if (file >> quota >> period && quota != "max" && period > 0) {
      best = std::min(best, std::max(1, static_cast<int>(std::atof(quota.c_str()) / period)));
    }
    if (path.empty() || path == "/") return best;
    path.erase(path.find_last_of('/'));
  }
}

int QuotaV1(std::string path) {
  int best = 1 << 20;
  for (;;) {
    for (const char* root : {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) {
      std::ifstream quota_file(root + path + "/cpu.cfs_quota_us");
      std::ifstream period_file(root + path + "/cpu.cfs_period_us");
      double quota = 0, period = 0;
      if (quota_file >> quota && period_file >> period && quota > 0 && period > 0) {
        best = std::min(best, std::max(1, static_cast<int>(quota / period)));
      }
    }
    if (path.empty() || path == "/") return best;
    path.erase(path.find_last_of('/'));
  }
}

int ContainerQuota() {
  int best = std::min(QuotaV2(""), QuotaV1(""));  // inside a cgroup namespace the root is ours
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1.
    std::istringstream fields(line);
    std::string id, controllers, path;
    if (!std::getline(fields, id, ':') || !std::getline(fields, controllers, ':') ||
        !std::getline(fields, path) || path.empty() || path[0] != '/') {
      continue;
    }
    if (controllers.empty()) {
      best = std::min(best, QuotaV2(path));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      best = std::min(best, QuotaV1(path));
    }
  }
  return best;
}

}  // namespace

Level MachineLevel() {
  static const Level level = Detect();
  return level;
}

int DefaultThreads() {
  int allowed = 1;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    allowed = CPU_COUNT(&set);
  } else {
    allowed = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));  // over 1024 CPUs
  }
  return std::max(1, std::min(allowed, ContainerQuota()));
}

}  // namespace fuselm
