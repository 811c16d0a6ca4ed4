// Runs a row function over tensors of one shape and any strides. The row function sees only rows of
// y and, for each operand, a row of unit stride or one value that repeats: broadcasting costs
// nothing, and what lies otherwise is brought into order in blocks that stay in the first cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "native/core/kernel.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct Operand {
  const void* data;
  bool repeats;  // one element for the whole row
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

inline constexpr int kMaxOperands = 3;

// Writes n elements at y; `stream` when no cache would keep what is written (EachVector takes it).
// `context` is what ForRows was given.
using RowFn = void (*)(void* y, const Operand* in, int64_t n, bool stream, const void* context);

// All views have y's shape (checked by the caller); y may be read by f, too.
void ForRows(Invocation& call, const View& y, std::initializer_list<const View*> in, RowFn f,
             const void* context = nullptr);

// y = x, of one shape and item size.
void CopyRows(Invocation& call, const View& y, const View& x);

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
