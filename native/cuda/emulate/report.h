// What a hazard is called, and where in the code an access stands.
#pragma once

#include <cstdint>
#include <string>

namespace fuselm::emulate {

enum class Hazard {
  kNone,
  kRace,           // two threads of a block, no order
  kOtherBlock,     // two blocks of a launch
  kCopyUnderWay,   // cp.async not waited for
  kUnitUnderWay,   // a tensor copy or wgmma not waited for
  kProxy,          // stored, then read or overwritten by wgmma or a tensor copy without a fence
  kUninitialised,  // shared memory that the block did not write
  kOutside,
};

std::string Describe(Hazard hazard);

// A return address as an offset in this library, and back to " at file:line, from file:line".
extern const char* const library_start;
inline uint32_t CodeOf(const void* at) {
  // of the call, which the return address follows
  return at == nullptr ? 0
                       : static_cast<uint32_t>(static_cast<const char*>(at) - 1 - library_start);
}
std::string LineOf(uint32_t code);

}  // namespace fuselm::emulate
