// Arithmetic on view layouts that cannot overflow: extents, self-overlap, overlap of two views.
#pragma once

#include <cstdint>
#include <optional>

#include "native/core/view.h"

namespace fuselm {

// Where a view lies in its buffer, in bytes. `data` is not looked at.
struct Layout {
  int64_t begin = 0;  // first byte
  int64_t end = 0;    // one past the last; begin when the view has no elements
  int64_t numel = 0;
};

// Nothing when a product or sum overflows, or a dimension, stride or the offset is negative.
std::optional<Layout> Measure(const View& view, int64_t offset_elements);

// False only when each element has an address of its own (sufficient: every stride passes the
// extent of all smaller ones).
bool MayOverlapItself(const View& view);

// False only when no byte is in both. Exact for disjoint ranges, and for views that share a row
// pitch and take disjoint columns of it; otherwise ranges that intersect count as overlap.
bool MayOverlap(const View& a, const Layout& at_a, const View& b, const Layout& at_b);

}  // namespace fuselm
