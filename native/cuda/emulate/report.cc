#include "native/cuda/emulate/report.h"

#include <dlfcn.h>

#include <array>
#include <cstdio>

namespace fuselm::emulate {
namespace {

Dl_info Library() {
  Dl_info found{};
  dladdr(reinterpret_cast<const void*>(&Describe), &found);
  return found;
}

}  // namespace

const char* const library_start = static_cast<const char*>(Library().dli_fbase);

std::string Describe(Hazard hazard) {
  switch (hazard) {
    case Hazard::kRace: return "a race within a block";
    case Hazard::kOtherBlock: return "a race between blocks";
    case Hazard::kCopyUnderWay: return "a cp.async is not waited for";
    case Hazard::kUnitUnderWay: return "an asynchronous access is not waited for";
    case Hazard::kProxy: return "a store is not fenced from asynchronous accesses";
    case Hazard::kUninitialised: return "read before it is written";
    case Hazard::kOutside: return "an access out of bounds";
    case Hazard::kNone: break;
  }
  return "no hazard";
}

std::string LineOf(uint32_t code) {
  if (code == 0) return "";
  std::array<char, 64> offset{};
  std::snprintf(offset.data(), offset.size(), "0x%x", code);
  const std::string command = std::string("addr2line -Cise '") + Library().dli_fname + "' " +
                              offset.data() + " 2>/dev/null";
  std::string lines;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    std::array<char, 512> line{};
    while (std::fgets(line.data(), line.size(), pipe) != nullptr) {
      std::string text(line.data());
      while (!text.empty() && text.back() == '\n') text.pop_back();
      if (text.empty() || text.find("??") == 0) continue;
      text = text.substr(0, text.find(" (discriminator"));
      lines += (lines.empty() ? " at " : ", from ") + text;
    }
    pclose(pipe);
  }
  return lines.empty() ? std::string(" at ") + offset.data() : lines;
}

}  // namespace fuselm::emulate
