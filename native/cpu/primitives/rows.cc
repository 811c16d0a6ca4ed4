// levels: generic avx2 avx512
// Axes are sorted by y's strides and merged where all views allow it. Then one of three walks:
//   rows       the last axis is long: row by row; an operand with a step is gathered piece by piece
//   blocks     it is short and y dense: runs of kPiece elements across rows, operands gathered
//   squares    an operand has unit stride along another axis: kSide x kSide blocks of it transposed
#include "native/cpu/primitives/rows.h"

#include <algorithm>
#include <cstring>

#include "native/cpu/primitives/lanes.h"
#include "native/cpu/primitives/transpose.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTileElements = 1 << 15;  // under 0.5 ms of the slowest row function
constexpr int64_t kPiece = 1024;            // elements gathered at a time
constexpr int64_t kSide = 64;
constexpr int64_t kSquaresPerTile = 8;
constexpr int64_t kLongRow = 48;
// A result of this size leaves the cache before it is read: written past it, it is not read first.
constexpr int64_t kStreamBytes = 32 << 20;

// Operand 0 is y.
struct Axes {
  int rank = 0, operands = 0;
  int64_t shape[kMaxRank];
  int64_t stride[kMaxOperands + 1][kMaxRank];
  int64_t item[kMaxOperands + 1];
  std::byte* data[kMaxOperands + 1];
  int64_t numel = 1;
  bool stream = false;

  int64_t width() const { return shape[rank - 1]; }
  int64_t step(int v) const { return stride[v][rank - 1]; }
};

Axes Merge(const View& y, std::initializer_list<const View*> in) {
  Axes a;
  const View* views[kMaxOperands + 1] = {&y};
  for (const View* v : in) views[++a.operands] = v;
  for (int v = 0; v <= a.operands; ++v) {
    a.item[v] = static_cast<int64_t>(ItemSize(views[v]->dtype));
    a.data[v] = views[v]->as<std::byte>();
  }
  int order[kMaxRank], n = 0;
  for (int i = 0; i < y.rank; ++i) {
    a.numel *= y.shape[i];
    if (y.shape[i] == 1) continue;
    int at = n++;
    for (; at > 0 && y.stride[order[at - 1]] < y.stride[i]; --at) order[at] = order[at - 1];
    order[at] = i;
  }
  for (int i = 0; i < n; ++i) {
    const int64_t size = y.shape[order[i]];
    bool joins = a.rank > 0;
    for (int v = 0; joins && v <= a.operands; ++v)
      joins = a.stride[v][a.rank - 1] == views[v]->stride[order[i]] * size;
    const int at = joins ? a.rank - 1 : a.rank++;
    a.shape[at] = joins ? a.shape[at] * size : size;
    for (int v = 0; v <= a.operands; ++v) a.stride[v][at] = views[v]->stride[order[i]];
  }
  if (a.rank == 0) {
    a.shape[0] = 1;
    for (int v = 0; v <= a.operands; ++v) a.stride[v][0] = 1;
    a.rank = 1;
  }
  a.stream = a.numel * a.item[0] >= kStreamBytes;
  return a;
}

// Coordinates of the axes before `rank`, and where each operand is there.
struct Position {
  int64_t at[kMaxRank] = {};
  int64_t offset[kMaxOperands + 1] = {};

  void Set(const Axes& a, int rank, int64_t index) {
    for (int v = 0; v <= a.operands; ++v) offset[v] = 0;
    for (int i = rank - 1; i >= 0; --i) {
      at[i] = index % a.shape[i];
      index /= a.shape[i];
      for (int v = 0; v <= a.operands; ++v) offset[v] += at[i] * a.stride[v][i];
    }
  }
  void Next(const Axes& a, int rank) {
    for (int i = rank - 1; i >= 0; --i) {
      for (int v = 0; v <= a.operands; ++v) offset[v] += a.stride[v][i];
      if (++at[i] < a.shape[i]) return;
      for (int v = 0; v <= a.operands; ++v) offset[v] -= a.shape[i] * a.stride[v][i];
      at[i] = 0;
    }
  }
};

template <class F>
void DispatchItem(int64_t item, F&& f) {
  switch (item) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

void Gather(void* to, const std::byte* from, int64_t step, int64_t n, int64_t item) {
  DispatchItem(item, [&]<class T>() {
    const T* in = reinterpret_cast<const T*>(from);
    for (int64_t i = 0; i < n; ++i) static_cast<T*>(to)[i] = in[i * step];
  });
}

void Scatter(std::byte* to, const void* from, int64_t step, int64_t n, int64_t item) {
  DispatchItem(item, [&]<class T>() {
    T* out = reinterpret_cast<T*>(to);
    for (int64_t i = 0; i < n; ++i) out[i * step] = static_cast<const T*>(from)[i];
  });
}

void CopyRow(void* y, const Operand* in, int64_t n, bool stream, const void* context) {
  const int64_t bytes = n * *static_cast<const int64_t*>(context);
  auto* to = static_cast<std::byte*>(y);
  const auto* from = in->as<std::byte>();
  // whole vectors of bits: Stream of floats, which no instruction looks into
  const int64_t off = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(to) % (4 * kLanes));
  if (!stream || in->repeats || bytes < 4096 || off % 4 != 0) {
    if (in->repeats)
      DispatchItem(bytes / n, [&]<class T>() { std::fill_n(static_cast<T*>(y), n, *in->as<T>()); });
    else
      std::memcpy(to, from, bytes);
    return;
  }
  std::memcpy(to, from, off);
  int64_t i = off;
#pragma GCC unroll 4
  for (; i + 4 * kLanes <= bytes; i += 4 * kLanes)
    Stream(reinterpret_cast<float*>(to + i), Load(reinterpret_cast<const float*>(from + i)));
  std::memcpy(to + i, from + i, bytes - i);
}

struct Scratch {
  alignas(64) std::byte data[kMaxOperands + 1][kSide * kSide * 8];
};

// One run of the last axis, at `position`, from element `first` of it.
void Run(const Axes& a, const Position& p, int64_t first, int64_t count, RowFn f,
         const void* context, Scratch& scratch) {
  bool gathers = false;
  for (int v = 0; v <= a.operands; ++v) gathers |= a.step(v) != 1 && (v == 0 || a.step(v) != 0);
  const int64_t piece = gathers ? kPiece : count;
  for (int64_t done = 0; done < count; done += piece) {
    const int64_t n = std::min(piece, count - done);
    Operand in[kMaxOperands];
    for (int v = 1; v <= a.operands; ++v) {
      const int64_t step = a.step(v);
      const std::byte* from = a.data[v] + (p.offset[v] + (first + done) * step) * a.item[v];
      if (step != 0 && step != 1) Gather(scratch.data[v], from, step, n, a.item[v]);
      in[v - 1] = {step != 0 && step != 1 ? scratch.data[v] : from, step == 0};
    }
    std::byte* y = a.data[0] + (p.offset[0] + (first + done) * a.step(0)) * a.item[0];
    if (a.step(0) == 1) {
      f(y, in, n, a.stream, context);
    } else {
      Gather(scratch.data[0], y, a.step(0), n, a.item[0]);
      f(scratch.data[0], in, n, false, context);
      Scatter(y, scratch.data[0], a.step(0), n, a.item[0]);
    }
  }
}

void WalkRows(Invocation& call, const Axes& a, RowFn f, const void* context) {
  const int outer = a.rank - 1;
  call.ParallelFor((a.numel + kTileElements - 1) / kTileElements, [&](int64_t tile, int) {
    Scratch scratch;
    int64_t at = tile * kTileElements;
    const int64_t end = std::min(at + kTileElements, a.numel);
    Position p;
    p.Set(a, outer, at / a.width());
    int64_t first = at % a.width();
    while (at < end) {
      const int64_t count = std::min(end - at, a.width() - first);
      Run(a, p, first, count, f, context, scratch);
      at += count;
      first = 0;
      p.Next(a, outer);
    }
    if (a.stream) StreamFence();
  });
}

// `count` elements of operand v from index `at` on, across short rows.
void GatherAcross(const Axes& a, int v, int64_t at, int64_t count, void* to) {
  const int outer = a.rank - 1;
  Position p;
  p.Set(a, outer, at / a.width());
  int64_t first = at % a.width();
  DispatchItem(a.item[v], [&]<class T>() {
    T* out = static_cast<T*>(to);
    const T* data = reinterpret_cast<const T*>(a.data[v]);
    const int64_t step = a.step(v);
    for (int64_t done = 0; done < count;) {
      const int64_t n = std::min(a.width() - first, count - done);
      const T* in = data + p.offset[v] + first * step;
      for (int64_t i = 0; i < n; ++i) out[done + i] = in[i * step];
      done += n;
      first = 0;
      p.Next(a, outer);
    }
  });
}

void WalkBlocks(Invocation& call, const Axes& a, RowFn f, const void* context) {
  bool dense[kMaxOperands + 1], repeats[kMaxOperands + 1];
  for (int v = 0; v <= a.operands; ++v) {
    dense[v] = repeats[v] = true;
    for (int i = 0; i < a.rank; ++i) {
      dense[v] &= a.stride[v][i] == a.stride[0][i];
      repeats[v] &= a.stride[v][i] == 0;
    }
  }
  call.ParallelFor((a.numel + kTileElements - 1) / kTileElements, [&](int64_t tile, int) {
    Scratch scratch;
    const int64_t end = std::min((tile + 1) * kTileElements, a.numel);
    for (int64_t at = tile * kTileElements; at < end; at += kPiece) {
      const int64_t n = std::min(kPiece, end - at);
      Operand in[kMaxOperands];
      for (int v = 1; v <= a.operands; ++v) {
        if (dense[v] || repeats[v]) {
          in[v - 1] = {a.data[v] + (dense[v] ? at * a.item[v] : 0), !dense[v]};
        } else {
          GatherAcross(a, v, at, n, scratch.data[v]);
          in[v - 1] = {scratch.data[v], false};
        }
      }
      f(a.data[0] + at * a.item[0], in, n, a.stream, context);
    }
    if (a.stream) StreamFence();
  });
}

// The axis along which some operand has unit stride and is better read; -1 when there is none.
int TurnedAxis(const Axes& a) {
  if (a.rank < 2 || a.width() < 8 || a.step(0) != 1) return -1;
  for (int v = 1; v <= a.operands; ++v) {
    if (a.step(v) == 0 || a.step(v) == 1) continue;
    for (int i = 0; i < a.rank - 1; ++i)
      if (a.stride[v][i] == 1 && a.shape[i] >= 8) return i;
  }
  return -1;
}

void WalkSquares(Invocation& call, Axes a, int turned, RowFn f, const void* context, bool copies) {
  // the turned axis goes next to the last one
  const int inner = a.rank - 1, k = a.rank - 2;
  for (int i = turned; i < k; ++i) {
    std::swap(a.shape[i], a.shape[i + 1]);
    for (int v = 0; v <= a.operands; ++v) std::swap(a.stride[v][i], a.stride[v][i + 1]);
  }
  const int64_t height = a.shape[k], width = a.width();
  const int64_t span = kSide * kSquaresPerTile;
  const int64_t row_blocks = (height + kSide - 1) / kSide, spans = (width + span - 1) / span;
  const int64_t outer = a.numel / height / width;
  call.ParallelFor(outer * row_blocks * spans, [&](int64_t tile, int) {
    Scratch scratch;
    Position p;
    p.Set(a, k, tile / spans / row_blocks);
    const int64_t r0 = tile / spans % row_blocks * kSide, rows = std::min(kSide, height - r0);
    const int64_t c_end = std::min(width, (tile % spans + 1) * span);
    for (int64_t c0 = tile % spans * span; c0 < c_end; c0 += kSide) {
      const int64_t columns = std::min(kSide, c_end - c0);
      std::byte* y = a.data[0] + (p.offset[0] + r0 * a.stride[0][k] + c0) * a.item[0];
      const std::byte* from[kMaxOperands + 1];
      int64_t pitch[kMaxOperands + 1];  // bytes from row to row
      for (int v = 1; v <= a.operands; ++v) {
        const int64_t step = a.step(v), down = a.stride[v][k];
        from[v] = a.data[v] + (p.offset[v] + r0 * down + c0 * step) * a.item[v];
        pitch[v] = down * a.item[v];
        if (step == 0 || step == 1) continue;
        std::byte* to = copies ? y : scratch.data[v];
        const int64_t to_pitch = copies ? a.stride[0][k] : kSide;
        if (down == 1)
          DispatchItem(a.item[v], [&]<class T>() {
            Transpose(reinterpret_cast<const T*>(from[v]), step, reinterpret_cast<T*>(to), to_pitch,
                      columns, rows);
          });
        else
          for (int64_t r = 0; r < rows; ++r)
            Gather(to + r * to_pitch * a.item[v], from[v] + r * pitch[v], step, columns, a.item[v]);
        from[v] = to;
        pitch[v] = kSide * a.item[v];
      }
      if (copies) continue;
      for (int64_t r = 0; r < rows; ++r) {
        Operand in[kMaxOperands];
        for (int v = 1; v <= a.operands; ++v)
          in[v - 1] = {from[v] + r * pitch[v], a.stride[v][inner] == 0};
        f(y + r * a.stride[0][k] * a.item[0], in, columns, false, context);
      }
    }
  });
}

void Walk(Invocation& call, const Axes& a, RowFn f, const void* context, bool copies) {
  if (a.numel == 0) return;
  if (const int turned = TurnedAxis(a); turned >= 0)
    return WalkSquares(call, a, turned, f, context, copies);
  bool dense = true;
  int64_t expect = 1;
  for (int i = a.rank - 1; i >= 0; --i) {
    dense &= a.stride[0][i] == expect;
    expect *= a.shape[i];
  }
  if (a.rank > 1 && dense && a.width() < kLongRow) return WalkBlocks(call, a, f, context);
  WalkRows(call, a, f, context);
}

}  // namespace

void ForRows(Invocation& call, const View& y, std::initializer_list<const View*> in, RowFn f,
             const void* context) {
  Walk(call, Merge(y, in), f, context, false);
}

void CopyRows(Invocation& call, const View& y, const View& x) {
  const int64_t item = static_cast<int64_t>(ItemSize(y.dtype));
  Walk(call, Merge(y, {&x}), CopyRow, &item, true);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
