// When calls into CUDA may begin: not once the process exits, and not after an error that no later
// call recovers from.
#pragma once

#include <string>

namespace fuselm::cuda {

// One call of the plugin, or one that must not begin: then `refused` says why.
class Call {
 public:
  Call();
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const char* refused = nullptr;
};

// To be called after a CUDA library was loaded. Exit handlers run in reverse order: from now on
// ours, which lets the calls under way end and no other begin, comes before those of that library,
// which take away what such calls use.
void EndCallsBeforeUnloading();

// The context is gone; the first message stands.
void NoteLost(const std::string& message);
// Empty while there was no such error.
std::string LostBecause();

}  // namespace fuselm::cuda
