#include "native/core/layout.h"

#include <array>
#include <utility>

namespace fuselm {
namespace {

bool Multiply(int64_t a, int64_t b, int64_t* out) { return !__builtin_mul_overflow(a, b, out); }
bool Add(int64_t a, int64_t b, int64_t* out) { return !__builtin_add_overflow(a, b, out); }

// The columns [begin, end) of a pitch that a view touches, when it stays within one row of it.
struct Window {
  int64_t begin, end;
};

std::optional<Window> ColumnsOf(const View& view, const Layout& at, int64_t pitch) {
  const int64_t item = static_cast<int64_t>(ItemSize(view.dtype));
  int64_t span = item;
  for (int i = 0; i < view.rank; ++i) {
    const int64_t stride = view.stride[i] * item;
    if (view.shape[i] > 1 && stride % pitch != 0) span += (view.shape[i] - 1) * stride;
  }
  const int64_t begin = at.begin % pitch;
  if (span > pitch - begin) return std::nullopt;
  return Window{begin, begin + span};
}

bool ApartByPitch(const View& a, const Layout& at_a, const View& b, const Layout& at_b) {
  const int64_t item = static_cast<int64_t>(ItemSize(a.dtype));
  for (int i = 0; i < a.rank; ++i) {
    const int64_t pitch = a.stride[i] * item;
    if (a.shape[i] <= 1 || pitch == 0) continue;
    const auto wa = ColumnsOf(a, at_a, pitch);
    const auto wb = ColumnsOf(b, at_b, pitch);
    if (wa && wb && (wa->end <= wb->begin || wb->end <= wa->begin)) return true;
  }
  return false;
}

}  // namespace

std::optional<Layout> Measure(const View& view, int64_t offset_elements) {
  const int64_t item = static_cast<int64_t>(ItemSize(view.dtype));
  if (offset_elements < 0 || item == 0) return std::nullopt;
  int64_t numel = 1, last = offset_elements;
  bool empty = false;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] < 0 || view.stride[i] < 0) return std::nullopt;
    if (view.shape[i] == 0) empty = true;
  }
  for (int i = 0; i < view.rank && !empty; ++i) {
    int64_t reach;
    if (!Multiply(numel, view.shape[i], &numel) ||
        !Multiply(view.shape[i] - 1, view.stride[i], &reach) || !Add(last, reach, &last)) {
      return std::nullopt;
    }
  }
  Layout at;
  if (!Multiply(offset_elements, item, &at.begin)) return std::nullopt;
  if (empty) {
    at.end = at.begin;
    return at;
  }
  at.numel = numel;
  int64_t bytes;  // of the elements: a view that repeats itself may not count past 64 bits either
  if (!Add(last, 1, &last) || !Multiply(last, item, &at.end) || !Multiply(numel, item, &bytes)) {
    return std::nullopt;
  }
  return at;
}

bool MayOverlapItself(const View& view) {
  std::array<std::pair<int64_t, int64_t>, kMaxRank> axes;  // stride, shape
  int n = 0;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] == 0) return false;
    if (view.shape[i] <= 1) continue;
    const std::pair axis{view.stride[i], view.shape[i]};
    int at = n++;
    for (; at > 0 && axes[at - 1] > axis; --at) axes[at] = axes[at - 1];
    axes[at] = axis;
  }
  int64_t extent = 0;  // last element reachable through the smaller strides
  for (int i = 0; i < n; ++i) {
    if (axes[i].first <= extent) return true;
    extent += (axes[i].second - 1) * axes[i].first;
  }
  return false;
}

bool MayOverlap(const View& a, const Layout& at_a, const View& b, const Layout& at_b) {
  if (at_a.begin == at_a.end || at_b.begin == at_b.end) return false;
  if (at_a.end <= at_b.begin || at_b.end <= at_a.begin) return false;
  return !ApartByPitch(a, at_a, b, at_b) && !ApartByPitch(b, at_b, a, at_a);
}

}  // namespace fuselm
