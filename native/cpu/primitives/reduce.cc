// levels: generic avx2 avx512
// Reductions: y has x's rank, and the axes that are 1 in y alone are reduced (the attribute `axes`,
// a bit mask, is for shape inference). Two ways, chosen by what has unit stride in memory:
//   along   a reduced axis: rows are reduced in pieces of kPiece, pieces pairwise
//   across  a kept axis: rows are added to a strip of columns, chunks of rows pairwise
// Pieces, chunks and the order they are joined in depend on shapes and strides alone.
// Accumulates in float32 for f32 and bf16. Bandwidth-bound: 1 stream.
#include <type_traits>

#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/lanes.h"
#include "native/cpu/primitives/reduce.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kPiece = 4096;
constexpr int64_t kTile = 1 << 15;  // elements read by a tile
constexpr int64_t kStrip = 1024;    // columns

// Axes by falling stride of x, neighbours merged where they can be stepped as one.
struct AxisList {
  int rank = 0;
  int64_t shape[kMaxRank], x[kMaxRank], y[kMaxRank];
  int64_t count = 1;

  void Add(int64_t size, int64_t x_stride, int64_t y_stride) {
    count *= size;
    if (size == 1) return;
    int at = rank++;
    for (; at > 0 && x[at - 1] < x_stride; --at) {
      shape[at] = shape[at - 1], x[at] = x[at - 1], y[at] = y[at - 1];
    }
    shape[at] = size, x[at] = x_stride, y[at] = y_stride;
  }
  void Merge() {
    int n = 0;
    for (int i = 0; i < rank; ++i) {
      if (n > 0 && x[n - 1] == x[i] * shape[i] && y[n - 1] == y[i] * shape[i]) {
        shape[n - 1] *= shape[i];
        x[n - 1] = x[i], y[n - 1] = y[i];
      } else {
        shape[n] = shape[i], x[n] = x[i], y[n] = y[i];
        ++n;
      }
    }
    rank = n;
  }
  // Takes the axis of smallest stride off, or one of a single element.
  void Pop(int64_t& size, int64_t& x_stride, int64_t& y_stride) {
    if (rank == 0) {
      size = 1, x_stride = 1, y_stride = 1;
      return;
    }
    --rank;
    size = shape[rank], x_stride = x[rank], y_stride = y[rank];
    count /= std::max<int64_t>(size, 1);
  }
};

struct Place {
  int64_t at[kMaxRank] = {};
  int64_t x = 0, y = 0;
  void Set(const AxisList& axes, int64_t index) {
    x = y = 0;
    for (int i = axes.rank - 1; i >= 0; --i) {
      at[i] = index % axes.shape[i];
      index /= axes.shape[i];
      x += at[i] * axes.x[i], y += at[i] * axes.y[i];
    }
  }
  void Next(const AxisList& axes) {
    for (int i = axes.rank - 1; i >= 0; --i) {
      x += axes.x[i], y += axes.y[i];
      if (++at[i] < axes.shape[i]) return;
      x -= axes.shape[i] * axes.x[i], y -= axes.shape[i] * axes.y[i];
      at[i] = 0;
    }
  }
};

// Joins values pairwise as they come: what is joined with what depends on their number alone.
template <class C, class Op>
class Pairs {
 public:
  void Add(C value) {
    int level = 0;
    for (; (count_ >> level) & 1; ++level) value = Op::Join(levels_[level], value);
    levels_[level] = value;
    ++count_;
  }
  C Result() const {
    C total = Op::template Start<C>();
    bool any = false;
    for (int level = 0; count_ >> level; ++level) {
      if (!((count_ >> level) & 1)) continue;
      total = any ? Op::Join(levels_[level], total) : levels_[level];
      any = true;
    }
    return total;
  }

 private:
  C levels_[48];
  uint64_t count_ = 0;
};

struct Problem {
  AxisList kept, reduced;
  int64_t inputs = 1;  // per output
};

template <class T, class Out, class Op>
void ReduceAlong(Invocation& inv, const View& x, const View& y, Problem p) {
  using C = Total<T>;
  int64_t width, step, none;
  p.reduced.Pop(width, step, none);
  const int64_t row_pieces = (width + kPiece - 1) / kPiece;
  const int64_t pieces = p.reduced.count * row_pieces;  // of an output
  const int64_t piece = std::min(width, kPiece);
  const auto piece_value = [&](const T* from, int64_t index, T* scratch) -> C {
    Place at;
    at.Set(p.reduced, index / row_pieces);
    const int64_t first = index % row_pieces * kPiece, n = std::min(kPiece, width - first);
    const T* in = from + at.x + first * step;
    if (step == 1) return ReducePiece<T, Op>(in, n);
    for (int64_t i = 0; i < n; ++i) scratch[i] = in[i * step];
    return ReducePiece<T, Op>(scratch, n);
  };
  const auto store = [&](const Place& at, C total) {
    y.as<Out>()[at.y] = static_cast<Out>(Op::Finish(total, p.inputs));
  };
  const int64_t outputs = p.kept.count;
  if (pieces * piece <= kTile) {
    const int64_t per_tile = std::max<int64_t>(1, kTile / std::max<int64_t>(pieces * piece, 16));
    inv.ParallelFor((outputs + per_tile - 1) / per_tile, [&](int64_t tile, int) {
      T scratch[kPiece];
      Place at;
      at.Set(p.kept, tile * per_tile);
      for (int64_t o = tile * per_tile; o < std::min((tile + 1) * per_tile, outputs); ++o) {
        const T* from = x.as<T>() + at.x;
        if (pieces == 1 && step == 1) {
          store(at, ReducePiece<T, Op>(from, width));
        } else {
          Pairs<C, Op> all;
          for (int64_t i = 0; i < pieces; ++i) all.Add(piece_value(from, i, scratch));
          store(at, all.Result());
        }
        at.Next(p.kept);
      }
    });
    return;
  }
  const int64_t per_chunk = std::max<int64_t>(1, kTile / piece);
  const int64_t chunks = (pieces + per_chunk - 1) / per_chunk;
  C* const partial = inv.Workspace<C>(outputs * chunks);
  inv.ParallelFor(outputs * chunks, [&](int64_t tile, int) {
    T scratch[kPiece];
    Place at;
    at.Set(p.kept, tile / chunks);
    const int64_t first = tile % chunks * per_chunk;
    Pairs<C, Op> all;
    for (int64_t i = first; i < std::min(first + per_chunk, pieces); ++i)
      all.Add(piece_value(x.as<T>() + at.x, i, scratch));
    partial[tile] = all.Result();
  });
  const int64_t per_tile = std::max<int64_t>(1, kTile / chunks);
  inv.ParallelFor((outputs + per_tile - 1) / per_tile, [&](int64_t tile, int) {
    Place at;
    at.Set(p.kept, tile * per_tile);
    for (int64_t o = tile * per_tile; o < std::min((tile + 1) * per_tile, outputs); ++o) {
      Pairs<C, Op> all;
      for (int64_t c = 0; c < chunks; ++c) all.Add(partial[o * chunks + c]);
      store(at, all.Result());
      at.Next(p.kept);
    }
  });
}

// sums[c] joined with rows[0..count)[c], the rows first among themselves.
template <class T, class Op>
void JoinRows(Total<T>* sums, const T* const* rows, int count, int64_t n) {
  if constexpr (kInLanes<T>) {
    if (count == 4) {
      for (int64_t c = 0; c < n; c += kLanes) {
        const int64_t left = n - c;
        const Vec a = Op::Join(LoadN(rows[0] + c, left), LoadN(rows[1] + c, left));
        const Vec b = Op::Join(LoadN(rows[2] + c, left), LoadN(rows[3] + c, left));
        StoreN(sums + c, Op::Join(LoadN(sums + c, left), Op::Join(a, b)), left);
      }
      return;
    }
  }
  for (int r = 0; r < count; ++r)
    for (int64_t c = 0; c < n; ++c) sums[c] = Op::Join(sums[c], static_cast<Total<T>>(rows[r][c]));
}

template <class T, class Out, class Op>
void ReduceAcross(Invocation& inv, const View& x, const View& y, Problem p) {
  using C = Total<T>;
  int64_t width, step, y_step;
  p.kept.Pop(width, step, y_step);
  const int64_t rows = p.inputs;
  // Few columns in dense rows: several rows make one, and are joined at the end.
  int64_t folded = 1;
  if (width <= 128 && p.reduced.rank == 1 && p.reduced.x[0] == width)
    folded = std::max<int64_t>(1, std::min(kStrip / width, rows / 4));
  const int64_t strip = folded > 1 ? width : std::min(width, kStrip);
  const int64_t strips = (width + strip - 1) / strip;
  const int64_t per_chunk = std::max<int64_t>(16, kTile / (strip * folded)) * folded;
  const int64_t chunks = (rows + per_chunk - 1) / per_chunk;
  const int64_t outer = p.kept.count;
  C* const partial = chunks > 1 ? inv.Workspace<C>(outer * chunks * width) : nullptr;
  const auto store = [&](const Place& at, int64_t first, int64_t n, const C* sums) {
    Out* out = y.as<Out>() + at.y + first * y_step;
    for (int64_t c = 0; c < n; ++c) out[c * y_step] = static_cast<Out>(Op::Finish(sums[c], rows));
  };
  inv.ParallelFor(outer * chunks * strips, [&](int64_t tile, int) {
    alignas(64) C sums[kStrip];
    std::fill_n(sums, kStrip, Op::template Start<C>());
    const int64_t first = tile % strips * strip, n = std::min(strip, width - first);
    const int64_t chunk = tile / strips % chunks;
    const int64_t row = chunk * per_chunk, end = std::min(rows, row + per_chunk);
    Place at, down;
    at.Set(p.kept, tile / strips / chunks);
    const T* from = x.as<T>() + at.x + first;
    if (folded > 1) {
      const int64_t wide = folded * width;
      int64_t r = row;
      for (; r + 4 * folded <= end; r += 4 * folded) {
        const T* four[4];
        for (int i = 0; i < 4; ++i) four[i] = from + (r + i * folded) * width;
        JoinRows<T, Op>(sums, four, 4, wide);
      }
      for (; r < end; r += folded) {
        const T* one = from + r * width;
        JoinRows<T, Op>(sums, &one, 1, std::min(folded, end - r) * width);
      }
      for (int64_t f = 1; f < folded; ++f)
        for (int64_t c = 0; c < width; ++c) sums[c] = Op::Join(sums[c], sums[f * width + c]);
    } else {
      down.Set(p.reduced, row);
      for (int64_t r = row; r < end;) {
        const T* four[4];
        int count = 0;
        for (; count < 4 && r < end; ++count, ++r) {
          four[count] = from + down.x;
          down.Next(p.reduced);
        }
        JoinRows<T, Op>(sums, four, count, n);
      }
    }
    if (chunks == 1)
      store(at, first, n, sums);
    else
      std::copy_n(sums, n, partial + (tile / strips) * width + first);
  });
  if (chunks == 1) return;
  constexpr int64_t kNarrow = 256;  // columns of a tile of the second pass
  const int64_t narrow = (width + kNarrow - 1) / kNarrow;
  inv.ParallelFor(outer * narrow, [&](int64_t tile, int) {
    const int64_t first = tile % narrow * kNarrow, n = std::min(kNarrow, width - first);
    C* const base = partial + tile / narrow * chunks * width + first;
    for (int64_t span = 1; span < chunks; span *= 2)
      for (int64_t c = 0; c + span < chunks; c += 2 * span) {
        C* const to = base + c * width;
        const C* const other = base + (c + span) * width;
        for (int64_t i = 0; i < n; ++i) to[i] = Op::Join(to[i], other[i]);
      }
    Place at;
    at.Set(p.kept, tile / narrow);
    store(at, first, n, base);
  });
}

template <class T, class Out, class Op>
void Run(Invocation& inv, const View& x, const View& y, const Problem& p) {
  if (p.inputs == 0) {
    using C = Total<T>;
    const Out value = static_cast<Out>(Op::Finish(Op::template Start<C>(), 0));
    Place at;
    at.Set(p.kept, 0);
    for (int64_t o = 0; o < p.kept.count; ++o, at.Next(p.kept)) y.as<Out>()[at.y] = value;
    return;
  }
  const bool across = p.kept.rank > 0 && p.kept.x[p.kept.rank - 1] == 1 && p.reduced.rank > 0;
  if (across)
    ReduceAcross<T, Out, Op>(inv, x, y, p);
  else
    ReduceAlong<T, Out, Op>(inv, x, y, p);
}

template <class Op>
void Reduce(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  Problem p;
  bool fits = x.rank == y.rank;
  for (int i = 0; fits && i < x.rank; ++i) {
    if (x.shape[i] == y.shape[i]) {
      p.kept.Add(x.shape[i], x.stride[i], y.stride[i]);
    } else {
      fits = y.shape[i] == 1;
      p.reduced.Add(x.shape[i], x.stride[i], 0);
    }
  }
  if (!fits)
    throw Error(ErrorCode::kShape, std::string(Op::kName) + ": " + y.ToString() +
                                       " is no reduction of " + x.ToString());
  if (p.kept.count == 0) return;
  p.inputs = p.reduced.count;
  p.kept.Merge();
  p.reduced.Merge();
  if constexpr (std::is_same_v<Op, SumOp>) {
    if (x.dtype == DType::kU8) {  // how many are set
      RequireDType(Op::kName, y, DType::kI32);
      return Run<uint8_t, int32_t, Op>(inv, x, y, p);
    }
  }
  RequireDType(Op::kName, y, x.dtype);
  if constexpr (std::is_same_v<Op, MeanOp>) {
    DispatchFloat64(x.dtype, [&]<class T>() { Run<T, T, Op>(inv, x, y, p); });
  } else {
    DispatchFloatOrI32(x.dtype, [&]<class T>() { Run<T, T, Op>(inv, x, y, p); });
  }
}
FUSELM_KERNEL("sum(x) -> (y) [axes]", kFloat64 | Mask(DType::kI32) | Mask(DType::kU8),
              Reduce<SumOp>);
FUSELM_KERNEL("mean(x) -> (y) [axes]", kFloat64, Reduce<MeanOp>);
FUSELM_KERNEL("max(x) -> (y) [axes]", kFloat64 | Mask(DType::kI32), Reduce<MaxOp>);
FUSELM_KERNEL("min(x) -> (y) [axes]", kFloat64 | Mask(DType::kI32), Reduce<MinOp>);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
