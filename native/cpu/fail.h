// Errors whose text is made at run time: compiled once at the baseline, because the string
// templates they use must not come out of an object that was built for a higher level.
#pragma once

#include <cstdint>

namespace fuselm {

// Throws Error(kValue): "<op>: <input>[<position>] is <value>, expected 0 <= <input> < <limit>".
[[noreturn]] void FailRange(const char* op, const char* input, int64_t position, int64_t value,
                            int64_t limit);

}  // namespace fuselm
