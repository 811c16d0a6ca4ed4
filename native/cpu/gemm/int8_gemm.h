// y[m, n] = bias[n] + sum over steps s of scale_a[m, s] * scale_b[n, s] * sum over k in s of x[m,
// k] q[n, k]
//
// The driver for int8 weights q. It is not a panel packer of gemm.h because a scale per group ends
// a sum inside K. Weights are packed once per chunk of columns, C is cut by shape only, and every
// element is summed in one order: results are bitwise equal on any number of threads, and, with x
// in int8, for any number of rows.
#pragma once

#include <algorithm>
#include <cstring>

#include "native/core/kernel.h"
#include "native/cpu/gemm/int8_micro.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct Int8Weights {
  const int8_t* values;  // [n, k]
  const float* scales;   // [n, groups()]
  int64_t n, k, group;   // elements of K per scale; 0: all of them

  int64_t groups() const { return group == 0 ? 1 : (k + group - 1) / group; }
  int64_t group_size() const { return group == 0 ? k : group; }
};

// How K goes: in blocks whose panel of B stays in L1, of steps that have one scale each.
template <class W>
struct Int8Steps {
  int64_t words, block, step, count, tile_words = 16;
  explicit Int8Steps(const Int8Weights& w) {
    words = (w.k + W::kPer - 1) / W::kPer;
    if (w.group == 0) {
      const int64_t blocks = std::max<int64_t>(1, (words + kBlockWords - 1) / kBlockWords);
      block = step = std::max<int64_t>(kLanes, RoundUp((words + blocks - 1) / blocks, kLanes));
    } else {
      step = w.group / W::kPer;
      block = kBlockWords / step * step;
      tile_words = std::min<int64_t>(step, 16);
    }
    count = (words + step - 1) / step;
  }
};

// x [m, k], `stride` elements a row. In int8: with its scales [m, groups] and, where W asks for
// them, its sums [m, steps]; both with rows to spare for a whole block past m.
template <class W>
struct Int8Rows {
  const typename W::Element* x;
  int64_t stride, m;
  const float* scales;
  const int32_t* sums;
};

template <class T>
struct Int8Store {
  T* y;
  int64_t stride;
  const float* bias;
  void operator()(int64_t m, int64_t n, Vec v, int64_t left) const {
    if (bias) v = v + LoadN(bias + n, left);
    StoreN(y + m * stride + n, v, left);
  }
};

template <class W>
void Int8PackPanel(const Int8Weights& w, int64_t j0, float* dst, float* scales) {
  for (int64_t k = 0; k < w.k; k += int64_t{kLanes} * W::kPer) {
    for (int j = 0; j < kVecs; ++j) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const int64_t col = j0 + j * kLanes + i;
        block[i] = col < w.n ? W::RowB(w.values + col * w.k + k, w.k - k) : Zero();
      }
      Transpose(block);
      for (int i = 0; i < kLanes; ++i) Store(dst + i * kPanel + j * kLanes, block[i]);
    }
    dst += kLanes * kPanel;
  }
  for (int64_t g = 0; g < w.groups(); ++g)
    for (int64_t j = 0; j < kPanel; ++j)
      scales[g * kPanel + j] = j0 + j < w.n ? w.scales[(j0 + j) * w.groups() + g] : 0.0f;
}

// A tile is a block of C: rows x cols, of at most kInt8TileWork multiply-adds.
struct Int8Grid {
  int64_t rows, cols, down, across;
};
template <class W>
Int8Grid Int8CutTiles(int64_t m, int64_t n, int64_t k) {
  constexpr int64_t R = kInt8Rows<W>;
  constexpr int64_t kWork = W::kTiles           ? int64_t{400} << 20
                            : FUSELM_HAS_AVX512 ? int64_t{24 * W::kPer} << 20
                                                : int64_t{FUSELM_IS_AVX2 ? 16 : 2} << 20;
  const int64_t blocks = (m + R - 1) / R, panels = (n + kPanel - 1) / kPanel;
  int64_t br = std::min(blocks, std::max<int64_t>(1, 112 / R));
  int64_t pc = std::min<int64_t>(panels, 512 / kPanel);
  const auto work = [&] { return br * R * pc * kPanel * k; };
  const auto tiles = [&] { return ((blocks + br - 1) / br) * ((panels + pc - 1) / pc); };
  while ((br > 1 || pc > 1) && (work() > kWork || (tiles() < 12 && work() > kWork / 16))) {
    if (pc > 1 && (pc * kPanel >= 4 * br * R || br == 1))
      pc = (pc + 1) / 2;
    else
      br = (br + 1) / 2;
  }
  return {br * R, pc * kPanel, (blocks + br - 1) / br, (panels + pc - 1) / pc};
}

template <class W, class T>
void Int8Gemm(Invocation& inv, const Int8Rows<W>& x, const Int8Weights& w,
              const Int8Store<T>& store) {
  constexpr int64_t R = kInt8Rows<W>;
  constexpr int64_t kPackedBytes = 8 << 20;  // of weights at a time
  const Int8Steps<W> steps(w);
  const int64_t panel_words = RoundUp(steps.words, kLanes), groups = w.groups();
  const int64_t panel_floats = (panel_words + groups) * kPanel;  // its scales follow the words
  const int64_t chunk =
      std::min(RoundUp(w.n, kPanel),
               RoundUp(std::max<int64_t>(512, kPackedBytes / 4 / (panel_words + groups)), 512));
  float* const packed = inv.Workspace<float>(static_cast<size_t>(chunk / kPanel * panel_floats));
  for (int64_t n0 = 0; n0 < w.n; n0 += chunk) {
    const int64_t n = std::min(chunk, w.n - n0), panels = (n + kPanel - 1) / kPanel;
    const int64_t per_tile = std::max<int64_t>(1, (int64_t{32} << 10) / panel_floats);
    inv.ParallelFor((panels + per_tile - 1) / per_tile, [&](int64_t tile, int) noexcept {
      for (int64_t p = tile * per_tile; p < std::min(panels, (tile + 1) * per_tile); ++p) {
        float* const at = packed + p * panel_floats;
        Int8PackPanel<W>(w, n0 + p * kPanel, at, at + panel_words * kPanel);
      }
    });
    const Int8Grid grid = Int8CutTiles<W>(x.m, n, w.k);
    const size_t floats =
        static_cast<size_t>((grid.rows + kLanes) * kStrideA + grid.rows * grid.cols);
    inv.ReserveScratch(floats * sizeof(float));
    inv.ParallelFor(grid.down * grid.across, [&](int64_t tile, int worker) noexcept {
      const int64_t m0 = tile % grid.down * grid.rows, c0 = tile / grid.down * grid.cols;
      const int64_t rows = std::min(grid.rows, x.m - m0), cols = std::min(grid.cols, n - c0);
      float* const a = inv.Scratch<float>(worker, floats);
      float* const c = a + (grid.rows + kLanes) * kStrideA;
#if FUSELM_IS_AMX
      [[maybe_unused]] const auto tiles = [&] {
        if constexpr (W::kTiles)
          return tmm::Tiles(static_cast<int>(steps.tile_words));
        else
          return 0;
      }();
#endif
      for (int64_t w0 = 0; w0 < steps.words; w0 += steps.block) {
        const int64_t words = std::min(steps.block, steps.words - w0), k0 = w0 * W::kPer;
        const int64_t len = std::min(words * W::kPer, w.k - k0);
        for (int64_t r = 0; r < rows; ++r) {
          const typename W::Element* row = x.x + (m0 + r) * x.stride + k0;
          float* out = a + r * kStrideA;
          for (int64_t k = 0; k < len; k += kLanes * W::kPer, out += kLanes)
            Store(out, W::RowA(row + k, len - k));
        }
        // rows the last block computes and drops: any value is right, denormals would be slow
        for (int64_t r = rows; r < RoundUp(rows, R); ++r)
          std::memset(a + r * kStrideA, 0, kStrideA * sizeof(float));
        const int64_t s = w0 / steps.step;
        for (int64_t p = 0; p < cols; p += kPanel) {
          const float* b = packed + (c0 + p) / kPanel * panel_floats;
          for (int64_t r = 0; r < rows; r += R) {
            const int64_t row = m0 + r;
            Int8Micro<W>(
                {.a = a + r * kStrideA,
                 .b = b + w0 * kPanel,
                 .c = c + r * grid.cols + p,
                 .stride = grid.cols,
                 .words = words,
                 .step = steps.step,
                 .scale_b = b + (panel_words + (w.group ? s : 0)) * kPanel,
                 .next_b = w.group ? kPanel : 0,
                 .scale_a = x.scales ? x.scales + row * groups + (w.group ? s : 0) : nullptr,
                 .row_a = groups,
                 .next_a = w.group ? 1 : 0,
                 .sums = x.sums ? x.sums + row * steps.count + s : nullptr,
                 .row_sums = steps.count,
                 .m = row,
                 .rows = std::min(R, rows - r),
                 .n = n0 + c0 + p,
                 .cols = std::min<int64_t>(kPanel, cols - p),
                 .first = w0 == 0,
                 .last = w0 + words == steps.words},
                steps.tile_words, store);
          }
        }
      }
    });
  }
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
