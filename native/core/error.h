// The one exception type of the native side. Launchers and the executor throw and catch it on
// worker 0; nothing crosses a thread or the Node-API border as an exception.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace fuselm {

// The codes are shared with lib/runtime/errors.ts.
enum class ErrorCode : uint32_t {
  kShape = 1,        // ShapeError: a launcher found shapes, dtypes or layouts it cannot take
  kOutOfMemory = 2,  // OutOfMemoryError
  kDevice = 3,       // DeviceError: anything the device or the protocol got wrong
  kFormat = 4,       // FormatError: a command record that cannot be decoded
  kAborted = 5,      // the owner of the command was cancelled
  kConfig = 6,       // ConfigError
  kValue = 7,        // ValueError: data outside its domain (a label past the vocabulary)
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error with a printf-style message. For kernel files: the exception's own inline code
// would be emitted once per level there, and the linker may keep the AVX-512 copy for all.
[[noreturn, gnu::format(printf, 2, 3)]] void Throw(ErrorCode code, const char* format, ...);

// Checks a condition that a caller's data can break (never an assertion about our own code).
inline void Require(bool ok, ErrorCode code, const char* message) {
  if (!ok) [[unlikely]]
    Throw(code, "%s", message);
}

}  // namespace fuselm
