// What is joined in a reduction, and a run of elements reduced to one value.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/lanes.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// What sums are kept in: integers in 64 bits, so that only the result wraps.
template <class T>
using Total = std::conditional_t<std::is_integral_v<T>, int64_t, ComputeT<T>>;

struct SumOp {
  static constexpr const char* kName = "sum";
  static constexpr bool kRepeatable = false;  // an element may not be joined twice
  template <class C>
  static C Start() {
    return C(0);
  }
  template <class C>
  static C Join(C a, C b) {
    return a + b;
  }
  template <class C>
  static C Finish(C total, int64_t) {
    return total;
  }
};
struct MeanOp : SumOp {
  static constexpr const char* kName = "mean";
  template <class C>
  static C Finish(C total, int64_t count) {
    return total / static_cast<C>(count);
  }
};
// A NaN wins, as in PyTorch.
struct MaxOp {
  static constexpr const char* kName = "max";
  static constexpr bool kRepeatable = true;
  template <class C>
  static C Start() {
    return std::numeric_limits<C>::has_infinity ? -std::numeric_limits<C>::infinity()
                                                : std::numeric_limits<C>::lowest();
  }
  template <class C>
  static C Join(C a, C b) {
    return (a != a || a > b) ? a : b;
  }
  static Vec Join(Vec a, Vec b) { return MaxNan(b, a); }
  template <class C>
  static C Finish(C total, int64_t) {
    return total;
  }
};
struct MinOp : MaxOp {
  static constexpr const char* kName = "min";
  template <class C>
  static C Start() {
    return std::numeric_limits<C>::has_infinity ? std::numeric_limits<C>::infinity()
                                                : std::numeric_limits<C>::max();
  }
  template <class C>
  static C Join(C a, C b) {
    return (a != a || a < b) ? a : b;
  }
  static Vec Join(Vec a, Vec b) { return MinNan(b, a); }
};

template <class Op>
inline float JoinLanes(Vec v) {
  if constexpr (!Op::kRepeatable) {
    return Sum(v);
  } else {
    float lanes[kLanes];
    Store(lanes, v);
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] = Op::Join(lanes[i], lanes[i + half]);
    return lanes[0];
  }
}

// n elements side by side.
template <class T, class Op>
inline Total<T> ReducePiece(const T* x, int64_t n) {
  using C = Total<T>;
  constexpr int kSums = 8;
  if constexpr (kInLanes<T>) {
    if (n >= kLanes) {
      Vec s[4];
      s[0] = Load(x);
      int64_t i = kLanes;
      if (n >= 8 * kLanes) {
        for (int j = 1; j < 4; ++j) s[j] = Load(x + j * kLanes);
        for (i = 4 * kLanes; i + 4 * kLanes <= n; i += 4 * kLanes)
          for (int j = 0; j < 4; ++j) s[j] = Op::Join(s[j], Load(x + i + j * kLanes));
        s[0] = Op::Join(Op::Join(s[0], s[1]), Op::Join(s[2], s[3]));
      }
      for (; i + kLanes <= n; i += kLanes) s[0] = Op::Join(s[0], Load(x + i));
      if (i < n)
        s[0] = Op::Join(s[0], Op::kRepeatable ? Load(x + n - kLanes) : LoadN(x + i, n - i));
      return JoinLanes<Op>(s[0]);
    }
    if (!Op::kRepeatable && n > 0) return JoinLanes<Op>(LoadN(x, n));
  }
  C sums[kSums];
  for (C& s : sums) s = Op::template Start<C>();
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int j = 0; j < kSums; ++j) sums[j] = Op::Join(sums[j], static_cast<C>(x[i + j]));
  for (int j = 0; i < n; ++i, ++j) sums[j] = Op::Join(sums[j], static_cast<C>(x[i]));
  for (int half = kSums / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) sums[j] = Op::Join(sums[j], sums[j + half]);
  return sums[0];
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
