// levels: generic
// Reductions: y has x's rank, and the axes that are 1 in y alone are reduced (the attribute `axes`,
// a bit mask, is for shape inference). One output element is reduced by one tile, in fixed blocks
// summed pairwise, so the result is the same on any threads.
#include <limits>

#include "native/cpu/primitives/elementwise.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

inline constexpr int64_t kBlock = 64;

// Axes of x that y keeps, and axes it reduces.
struct Split {
  int kept = 0, reduced = 0;
  int64_t kept_shape[kMaxRank], kept_x[kMaxRank], kept_y[kMaxRank];
  int64_t reduced_shape[kMaxRank], reduced_x[kMaxRank];
  int64_t outputs = 1, inputs = 1;
};

Split SplitAxes(const char* op, const View& x, const View& y) {
  Split s;
  bool fits = x.rank == y.rank;
  for (int i = 0; fits && i < x.rank; ++i) {
    if (x.shape[i] == y.shape[i]) {
      s.kept_shape[s.kept] = x.shape[i], s.kept_x[s.kept] = x.stride[i],
      s.kept_y[s.kept++] = y.stride[i];
      s.outputs *= x.shape[i];
    } else {
      fits = y.shape[i] == 1;
      s.reduced_shape[s.reduced] = x.shape[i], s.reduced_x[s.reduced++] = x.stride[i];
      s.inputs *= x.shape[i];
    }
  }
  if (!fits)
    throw Error(ErrorCode::kShape,
                std::string(op) + ": " + y.ToString() + " is no reduction of " + x.ToString());
  return s;
}

int64_t Offset(int64_t index, int rank, const int64_t* shape, const int64_t* stride) {
  int64_t at = 0;
  for (int i = rank - 1; i >= 0; --i) {
    at += index % shape[i] * stride[i];
    index /= shape[i];
  }
  return at;
}

struct SumOp {
  static constexpr const char* kName = "sum";
  template <class C>
  static C Start() {
    return C(0);
  }
  template <class C>
  static C Join(C a, C b) {
    return a + b;
  }
};
struct MaxOp {
  static constexpr const char* kName = "max";
  template <class C>
  static C Start() {
    return std::numeric_limits<C>::has_infinity ? -std::numeric_limits<C>::infinity()
                                                : std::numeric_limits<C>::lowest();
  }
  template <class C>
  static C Join(C a, C b) {
    return (a != a || a > b) ? a : b;
  }
};

// Elements [begin, end) of the reduced axes, halved down to blocks: error grows with log n, not n.
template <class T, class Op>
ComputeT<T> ReduceRange(const T* x, const Split& s, int64_t begin, int64_t end) {
  using C = ComputeT<T>;
  if (end - begin > kBlock) {
    const int64_t blocks = (end - begin + kBlock - 1) / kBlock;
    const int64_t middle = begin + blocks / 2 * kBlock;
    return Op::Join(ReduceRange<T, Op>(x, s, begin, middle), ReduceRange<T, Op>(x, s, middle, end));
  }
  C total = Op::template Start<C>();
  for (int64_t i = begin; i < end; ++i)
    total = Op::Join(total, static_cast<C>(x[Offset(i, s.reduced, s.reduced_shape, s.reduced_x)]));
  return total;
}

template <class Op>
void Reduce(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  const Split s = SplitAxes(Op::kName, x, y);
  RequireDType(Op::kName, y, x.dtype);
  const int64_t per_tile = std::max<int64_t>(1, 8192 / std::max<int64_t>(s.inputs, 1));
  DispatchFloatOrI32(x.dtype, [&]<class T>() {
    inv.ParallelFor((s.outputs + per_tile - 1) / per_tile, [&](int64_t tile, int) {
      for (int64_t o = tile * per_tile; o < std::min((tile + 1) * per_tile, s.outputs); ++o) {
        const T* from = x.as<T>() + Offset(o, s.kept, s.kept_shape, s.kept_x);
        y.as<T>()[Offset(o, s.kept, s.kept_shape, s.kept_y)] =
            T(ReduceRange<T, Op>(from, s, 0, s.inputs));
      }
    });
  });
}
FUSELM_KERNEL("sum(x) -> (y) [axes]", kFloat64 | Mask(DType::kI32), Reduce<SumOp>);
FUSELM_KERNEL("max(x) -> (y) [axes]", kFloat64 | Mask(DType::kI32), Reduce<MaxOp>);

// Index of the largest of the last axis; the first among equals; a NaN is largest.
void Argmax(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  bool fits = x.rank >= 1 && y.rank == x.rank - 1;
  for (int i = 0; fits && i < y.rank; ++i) fits = x.shape[i] == y.shape[i];
  if (!fits)
    throw Error(ErrorCode::kShape,
                "argmax: " + y.ToString() + " is not " + x.ToString() + " without its last axis");
  RequireDType("argmax", y, DType::kI32);
  Require(x.dim(-1) > 0, ErrorCode::kShape, "argmax: the last axis is empty");
  DispatchFloatOrI32(x.dtype, [&]<class T>() {
    inv.ParallelFor(x.rows(), [&](int64_t r, int) {
      using C = ComputeT<T>;
      const T* row = x.row<T>(r);
      int64_t best = 0;
      for (int64_t i = 1; i < x.dim(-1); ++i) {
        const C value = row[i * x.step(-1)], top = row[best * x.step(-1)];
        if (value > top || (value != value && top == top)) best = i;
      }
      int64_t at = 0, rest = r;
      for (int i = y.rank - 1; i >= 0; --i) {
        at += rest % y.shape[i] * y.stride[i];
        rest /= y.shape[i];
      }
      y.as<int32_t>()[at] = static_cast<int32_t>(best);
    });
  });
}
FUSELM_KERNEL("argmax(x) -> (y)", kFloat64 | Mask(DType::kI32), Argmax);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
