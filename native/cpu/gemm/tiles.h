// How a product is cut: K into passes, C into tiles, and what one tile does.
#pragma once

#include <algorithm>
#include <cstring>

#include "native/cpu/gemm/micro.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// K of one pass over C: bounds the time of a tile and the size of the packed B. Words when A runs
// down K: its rows are far apart in memory, so that wide tiles matter more than passes over C.
constexpr int64_t kPassK = 4096, kPassWordsDown = 1024;
// Bytes of packed B per pass; wider problems take N in chunks.
constexpr int64_t kPackedBytes = 8 << 20;
constexpr int64_t kTileRows = 112, kTileCols = kGemmBlockColumns;
// Multiply-adds a tile may hold, so that it stays well under a millisecond at this level's speed.
template <class T>
constexpr int64_t kTileWork = kTiles<T>           ? int64_t{400} << 20
                              : FUSELM_HAS_AVX512 ? int64_t{48 * kPerWord<T>} << 20
                                                  : int64_t{FUSELM_IS_AVX2 ? 16 : 2} << 20;

struct Piece {  // a stretch of one segment's K within a pass
  const GemmSegment* segment;
  int64_t k0, len;
  int64_t word0;  // where its words begin in a packed panel
};

struct Pass {
  static constexpr int kMaxPieces = 8;
  Piece pieces[kMaxPieces];
  int count = 0;
  int64_t panel_words = 0;  // of a packed panel: all pieces, padded
  int64_t k = 0;

  template <class T>
  void Add(const GemmSegment& segment, int64_t k0, int64_t len) {
    pieces[count++] = {&segment, k0, len, panel_words};
    panel_words += RoundUp(WordsOf<T>(len), kLanes);
    k += len;
  }
};

// Walks all segments in passes of at most about kPassK; short segments share a pass, and a low-rank
// term rides along with the pass before it. Returns false when K is exhausted.
struct Cursor {
  size_t segment = 0;
  int64_t k0 = 0;
};
template <class T>
bool NextPass(std::span<const GemmSegment> segments, Cursor& at, Pass& pass) {
  pass = Pass{};
  while (at.segment < segments.size() && pass.count < Pass::kMaxPieces) {
    const GemmSegment& s = segments[at.segment];
    const int64_t left = s.k - at.k0;
    if (pass.count > 0 && left > kPassK / 8 && pass.k + left > kPassK) break;
    // Equal shares rather than a short remainder.
    const int64_t most = s.a.along_k ? kPassK : kPassWordsDown * kPerWord<T>;
    const int64_t shares = (left + most - 1) / most;
    const int64_t len =
        shares <= 1 ? left : std::min(left, RoundUp((left + shares - 1) / shares, 64));
    if (len > 0) pass.Add<T>(s, at.k0, len);
    at.k0 += len;
    if (at.k0 < s.k) break;
    at = {at.segment + 1, 0};
  }
  return pass.count > 0;
}

// Into how many slices of K, summed apart and then joined in order, a product is cut whose C has
// too few tiles for all threads (the gradients of small weights). One: not cut.
template <class T>
int64_t SlicesOfK(int64_t m, int64_t n, int64_t k) {
  constexpr int64_t kEnough = 16, kShortest = 256, kLongest = 8192;
  const int64_t tiles = ((m + kTileRows - 1) / kTileRows) * ((n + 255) / 256);
  const int64_t words = WordsOf<T>(k);
  if (tiles >= 12 || words < 4 * kShortest || words > kLongest) return 1;
  return std::max(std::min((kEnough + tiles - 1) / tiles, words / kShortest),
                  (words + kPassWordsDown - 1) / kPassWordsDown);
}

struct TileGrid {
  int64_t rows, cols;    // of a tile
  int64_t down, across;  // tiles
};

// Depends on shapes alone. `wide`: keep tiles kTileCols wide. Below `enough` tiles they get
// smaller.
template <class T>
TileGrid CutTiles(int64_t m, int64_t n, int64_t k, bool wide, int64_t enough = 12) {
  constexpr int64_t R = kBlockRows<T>;
  static_assert(kTileCols % kPanel == 0);
  const int64_t blocks = (m + R - 1) / R, panels = (n + kPanel - 1) / kPanel;
  int64_t br = std::min(blocks, std::max<int64_t>(1, kTileRows / R));
  int64_t pc = std::min(panels, kTileCols / kPanel);
  const auto work = [&] { return br * R * pc * kPanel * k; };
  const auto tiles = [&] { return ((blocks + br - 1) / br) * ((panels + pc - 1) / pc); };
  while ((br > 1 || (pc > 1 && !wide)) &&
         (work() > kTileWork<T> || (tiles() < enough && work() > kTileWork<T> / 16))) {
    if (!wide && pc > 1 && (pc * kPanel >= 4 * br * R || br == 1))
      pc = (pc + 1) / 2;
    else
      br = (br + 1) / 2;
  }
  const int64_t down = (blocks + br - 1) / br, across = (panels + pc - 1) / pc;
  br = (blocks + down - 1) / down;
  if (!wide) pc = (panels + across - 1) / across;
  return {br * R, pc * kPanel, (blocks + br - 1) / br, (panels + pc - 1) / pc};
}

// Packs all of B for columns [n0, n0 + n) on this thread.
template <class T>
void PackColumnsOf(const Pass& pass, int64_t n0, int64_t n, float* packed) {
  for (int64_t p = 0; p * kPanel < n; ++p)
    for (int i = 0; i < pass.count; ++i) {
      const Piece& piece = pass.pieces[i];
      PackB<T>(piece.segment->b, {.column = n0 + p * kPanel,
                                  .columns = std::min<int64_t>(kPanel, n - p * kPanel),
                                  .k0 = piece.k0,
                                  .len = piece.len,
                                  .dst = packed + (p * pass.panel_words + piece.word0) * kPanel});
    }
}

// C = acc + addend + bias, each where present.
template <class Out>
struct StoreEpilogue {
  Out* out;
  int64_t stride;
  const float* addend;
  int64_t addend_stride;
  const float* bias;
  void operator()(int64_t m, int64_t n, Vec v, int64_t left) const {
    if (addend) v = v + LoadN(addend + m * addend_stride + n, left);
    if (bias) v = v + LoadN(bias + n, left);
    StoreN(out + m * stride + n, v, left);
  }
};

// Packs B for columns [n0, n0 + n) of C. A B that runs down K is read in slices of K over all
// columns, so that its rows are read whole; one along K panel by panel.
template <class T>
void PackPanels(Invocation& inv, const Pass& pass, int64_t n0, int64_t n, float* packed) {
  const int64_t panels = (n + kPanel - 1) / kPanel;
  const int64_t panel_floats = pass.panel_words * kPanel;
  for (int i = 0; i < pass.count; ++i) {
    const Piece& piece = pass.pieces[i];
    const GemmOperand& b = piece.segment->b;
    const int64_t words = RoundUp(WordsOf<T>(piece.len), kLanes);
    const int64_t slice = b.along_k ? words : std::min<int64_t>(words, 4 * kLanes);
    const int64_t slices = (words + slice - 1) / slice;
    const int64_t group = std::clamp<int64_t>((int64_t{32} << 10) / (slice * kPanel), 1, panels);
    const int64_t groups = (panels + group - 1) / group;
    const auto pack = [&](int64_t tile) {
      const int64_t w = tile / groups * slice, k = w * kPerWord<T>;
      const int64_t len = std::min(slice * kPerWord<T>, piece.len - k);
      const int64_t end = std::min(panels, (tile % groups + 1) * group);
      for (int64_t p = tile % groups * group; p < end; ++p)
        PackB<T>(b, {.column = n0 + p * kPanel,
                     .columns = std::min<int64_t>(kPanel, n - p * kPanel),
                     .k0 = piece.k0 + k,
                     .len = len,
                     .dst = packed + p * panel_floats + (piece.word0 + w) * kPanel});
    };
    if (slices * groups == 1)
      pack(0);
    else
      inv.ParallelFor(slices * groups, [&](int64_t tile, int) noexcept { pack(tile); });
  }
}

// C in stretches of columns.
template <class Out>
struct ColumnsEpilogue {
  std::span<const GemmColumns> columns;
  const float* partial = nullptr;  // sums of earlier passes, [m, n]
  int64_t partial_stride = 0;
  void operator()(int64_t m, int64_t n, Vec v, int64_t left) const {
    if (partial) v = v + LoadN(partial + m * partial_stride + n, left);
    const GemmColumns* c = columns.data();
    while (n >= c->end) ++c;
    if (n + std::min<int64_t>(left, kLanes) <= c->end) return StoreTo(*c, m, n, v, left);
    float lanes[kLanes];  // the vector lies across a border
    Store(lanes, v);
    for (int64_t i = 0; i < std::min<int64_t>(left, kLanes); ++i) {
      while (n + i >= c->end) ++c;
      StoreTo(*c, m, n + i, Set(lanes[i]), 1);
    }
  }

 private:
  static void StoreTo(const GemmColumns& c, int64_t m, int64_t n, Vec v, int64_t left) {
    if (c.bias) v = v + LoadN(c.bias + n - c.begin, left);
    StoreN(static_cast<Out*>(c.data) + m * c.stride + n - c.begin, v, left);
  }
};

template <class T>
inline void PrefetchRow(const T* row, int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < n + kLine - 1; i += kLine)
    __builtin_prefetch(row + std::min(i, n - 1), 0, 2);
}

template <class T>
struct TileJob {
  const GemmProblem& problem;
  const Pass& pass;
  TileGrid grid;
  int64_t n0, n;  // this chunk's columns of C
  const float* packed;

  static size_t ScratchFloats(const TileGrid& grid) {
    return static_cast<size_t>(kFloatsA<T>(grid.rows) + grid.rows * grid.cols);
  }

  // Computes one tile; its rows leave through the epilogue, or stay in the returned block.
  template <class Epilogue>
  GemmBlock Run(int64_t tile, int worker, float* scratch, bool keep,
                const Epilogue& epilogue) const {
    constexpr int64_t R = kBlockRows<T>;
    const int64_t m0 = tile % grid.down * grid.rows, c0 = tile / grid.down * grid.cols;
    const int64_t rows = std::min(grid.rows, problem.m - m0), cols = std::min(grid.cols, n - c0);
    float* const a = scratch;
    float* const c = scratch + kFloatsA<T>(grid.rows);
    const int64_t panel_floats = pass.panel_words * kPanel;
#if FUSELM_IS_AMX
    [[maybe_unused]] const std::conditional_t<kTiles<T>, tmm::Tiles, int> tiles{};
#endif
    for (int i = 0; i < pass.count; ++i) {
      const Piece& piece = pass.pieces[i];
      const int64_t words = WordsOf<T>(piece.len);
      const int64_t blocks = (words + kBlockWords - 1) / kBlockWords;
      const int64_t block_words = RoundUp((words + blocks - 1) / blocks, kLanes);
      for (int64_t w = 0; w < words; w += block_words) {
        const int64_t count = std::min(block_words, words - w);
        const int64_t k = w * kPerWord<T>;
        const GemmOperand& from = piece.segment->a;
        const bool columns = !from.along_k && !kTiles<T>;
        if (columns)
          PackColumnsA<T>(from, m0, rows, piece.k0 + k,
                          std::min(count * kPerWord<T>, piece.len - k), a);
        else
          PackA<T>(from, m0, rows, piece.k0 + k, std::min(count * kPerWord<T>, piece.len - k), a);
        const int64_t block_stride = columns ? kBlockWords * kStepA : R * kStrideA;
        // rows the last block computes and drops: any value is right, denormals would be slow
        for (int64_t r = rows; !columns && r < RoundUp(rows, R); ++r)
          std::memset(a + r * kStrideA, 0, kStrideA * sizeof(float));
        const bool last = i + 1 == pass.count && w + count == words;
        // The next block's rows of a K that runs down lie too far apart for the machine's own
        // prefetching; they are fetched a few per kernel call.
        const int64_t next = piece.k0 + (w + count) * kPerWord<T>;
        int64_t ahead = columns ? next : 0;
        const int64_t ahead_end =
            columns ? std::min(next + block_words * kPerWord<T>, piece.k0 + piece.len) : 0;
        const int64_t calls = ((rows + R - 1) / R) * ((cols + kPanel - 1) / kPanel);
        const int64_t per_call = (ahead_end - ahead + calls - 1) / calls;
        for (int64_t p = 0; p < cols; p += kPanel) {
          const float* b = packed + (c0 + p) / kPanel * panel_floats + (piece.word0 + w) * kPanel;
          for (int64_t r = 0; r < rows; r += R) {
            for (const int64_t end = std::min(ahead + per_call, ahead_end); ahead < end; ++ahead)
              PrefetchRow(static_cast<const T*>(from.data) + ahead * from.stride + m0, rows);
            Micro<T>({.a = a + r / R * block_stride,
                      .columns = columns,
                      .b = b,
                      .c = c + r * grid.cols + p,
                      .stride = grid.cols,
                      .words = count,
                      .m = m0 + r,
                      .rows = std::min(R, rows - r),
                      .n = n0 + c0 + p,
                      .cols = std::min<int64_t>(kPanel, cols - p),
                      .load = i > 0 || w > 0,
                      .last = last && !keep},
                     epilogue);
          }
        }
      }
    }
    return {c, grid.cols, m0, rows, n0 + c0, cols, worker};
  }
};

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
