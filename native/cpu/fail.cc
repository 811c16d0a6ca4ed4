#include "native/cpu/fail.h"

#include <string>

#include "native/core/error.h"

namespace fuselm {

void FailRange(const char* op, const char* input, int64_t position, int64_t value, int64_t limit) {
  throw Error(ErrorCode::kValue, std::string(op) + ": " + input + "[" + std::to_string(position) +
                                     "] is " + std::to_string(value) + ", expected 0 <= " + input +
                                     " < " + std::to_string(limit));
}

}  // namespace fuselm
