// levels: generic avx2 avx512 avx512bf16 amx
// The driver: cuts C into tiles, packs B once per pass, runs the inner kernels.
#include "native/cpu/gemm/gemm.h"

#include <algorithm>
#include <cstring>

#include "native/cpu/gemm/micro.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// K of one pass over C: bounds the time of a tile and the size of the packed B.
constexpr int64_t kPassK = 4096;
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
  static constexpr int kMaxPieces = 2;
  Piece pieces[kMaxPieces];
  int count = 0;
  int64_t panel_words = 0;  // padded, all pieces
  int64_t k = 0;

  template <class T>
  void Add(const GemmSegment& segment, int64_t k0, int64_t len) {
    pieces[count++] = {&segment, k0, len, panel_words};
    panel_words += RoundUp(WordsOf<T>(len), kLanes);
    k += len;
  }
};

// Walks all segments in passes of at most about kPassK; a short last segment (a low-rank term)
// rides along with the pass before it. Returns false when K is exhausted.
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
    if (pass.count > 0 && left > kPassK / 8) break;
    // Equal shares rather than a short remainder.
    const int64_t shares = (left + kPassK - 1) / kPassK;
    const int64_t len =
        shares <= 1 ? left : std::min(left, RoundUp((left + shares - 1) / shares, 64));
    if (len > 0) pass.Add<T>(s, at.k0, len);
    at.k0 += len;
    if (at.k0 < s.k) break;
    at = {at.segment + 1, 0};
  }
  return pass.count > 0;
}

struct TileGrid {
  int64_t rows, cols;    // of a tile
  int64_t down, across;  // tiles
};

// Depends on shapes alone. `wide`: keep tiles kTileCols wide.
template <class T>
TileGrid CutTiles(int64_t m, int64_t n, int64_t k, bool wide) {
  constexpr int64_t R = kBlockRows<T>;
  static_assert(kTileCols % kPanel == 0);
  const int64_t blocks = (m + R - 1) / R, panels = (n + kPanel - 1) / kPanel;
  int64_t br = std::min(blocks, std::max<int64_t>(1, kTileRows / R));
  int64_t pc = std::min(panels, kTileCols / kPanel);
  const auto work = [&] { return br * R * pc * kPanel * k; };
  const auto tiles = [&] { return ((blocks + br - 1) / br) * ((panels + pc - 1) / pc); };
  while ((br > 1 || (pc > 1 && !wide)) &&
         (work() > kTileWork<T> || (tiles() < 12 && work() > kTileWork<T> / 16))) {
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

template <class T>
void PackPanels(Invocation& inv, const Pass& pass, int64_t n0, int64_t n, float* packed) {
  const int64_t panels = (n + kPanel - 1) / kPanel;
  const int64_t panel_floats = pass.panel_words * kPanel;
  const int64_t group = std::max<int64_t>(1, (int64_t{32} << 10) / panel_floats);
  const auto pack = [&](int64_t tile) {
    const int64_t end = std::min(panels, (tile + 1) * group);
    for (int64_t p = tile * group; p < end; ++p)
      for (int i = 0; i < pass.count; ++i) {
        const Piece& piece = pass.pieces[i];
        PackB<T>(piece.segment->b, {.column = n0 + p * kPanel,
                                    .columns = std::min<int64_t>(kPanel, n - p * kPanel),
                                    .k0 = piece.k0,
                                    .len = piece.len,
                                    .dst = packed + p * panel_floats + piece.word0 * kPanel});
      }
  };
  const int64_t tiles = (panels + group - 1) / group;
  if (tiles == 1) return pack(0);
  inv.ParallelFor(tiles, [&](int64_t tile, int) noexcept { pack(tile); });
}

template <class T>
struct TileJob {
  const GemmProblem& problem;
  const Pass& pass;
  TileGrid grid;
  int64_t n0, n;  // this chunk's columns of C
  const float* packed;

  static size_t ScratchFloats(const TileGrid& grid) {
    return static_cast<size_t>((grid.rows + kLanes) * kStrideA + grid.rows * grid.cols);
  }

  // Computes one tile; its rows leave through the epilogue, or stay in the returned block.
  template <class Epilogue>
  GemmBlock Run(int64_t tile, int worker, float* scratch, bool keep,
                const Epilogue& epilogue) const {
    constexpr int64_t R = kBlockRows<T>;
    const int64_t m0 = tile % grid.down * grid.rows, c0 = tile / grid.down * grid.cols;
    const int64_t rows = std::min(grid.rows, problem.m - m0), cols = std::min(grid.cols, n - c0);
    float* const a = scratch;
    float* const c = scratch + (grid.rows + kLanes) * kStrideA;
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
        PackA<T>(piece.segment->a, m0, rows, piece.k0 + k,
                 std::min(count * kPerWord<T>, piece.len - k), a);
        // rows the last block computes and drops: any value is right, denormals would be slow
        for (int64_t r = rows; r < RoundUp(rows, R); ++r)
          std::memset(a + r * kStrideA, 0, kStrideA * sizeof(float));
        const bool last = i + 1 == pass.count && w + count == words;
        for (int64_t p = 0; p < cols; p += kPanel) {
          const float* b = packed + (c0 + p) / kPanel * panel_floats + (piece.word0 + w) * kPanel;
          for (int64_t r = 0; r < rows; r += R) {
            Micro<T>({.a = a + r * kStrideA,
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

template <class T, class Out>
void RunTiles(Invocation& inv, const TileJob<T>& job, const StoreEpilogue<Out>& epilogue,
              const GemmOutput* callback) {
  const size_t floats = TileJob<T>::ScratchFloats(job.grid);
  inv.ReserveScratch(floats * sizeof(float));
  inv.ParallelFor(job.grid.down * job.grid.across, [&](int64_t tile, int worker) noexcept {
    float* scratch = inv.Scratch<float>(worker, floats);
    const GemmBlock block = job.Run(tile, worker, scratch, callback != nullptr, epilogue);
    if (!callback) return;
    for (int64_t i = 0; (epilogue.addend || epilogue.bias) && i < block.rows; ++i)
      for (int64_t j = 0; j < block.cols; j += kLanes) {
        float* at = block.c + i * block.stride + j;
        const int64_t left = block.cols - j, m = block.m + i, n = block.n + j;
        Vec v = LoadN(at, left);
        if (epilogue.addend) v = v + LoadN(epilogue.addend + m * epilogue.addend_stride + n, left);
        if (epilogue.bias) v = v + LoadN(epilogue.bias + n, left);
        StoreN(at, v, left);
      }
    callback->on_block(callback->context, block);
  });
}

// K = 0: C is addend and bias alone.
void EmptySum(Invocation& inv, const GemmProblem& problem) {
  const GemmOutput& out = problem.out;
  const auto fill = [&](auto* data, int64_t stride, int64_t m, int64_t n0, int64_t n) {
    using Out = std::remove_pointer_t<decltype(data)>;
    const StoreEpilogue<Out> store{data, stride, out.addend, out.addend_stride, out.bias};
    for (int64_t j = n0; j < n0 + n; j += kLanes) store(m, j, Zero(), n0 + n - j);
  };
  if (!out.on_block) {
    for (int64_t m = 0; m < problem.m; ++m)
      DispatchFloat(out.dtype, [&]<class Out>() {
        fill(static_cast<Out*>(out.data), out.stride, m, 0, problem.n);
      });
    return;
  }
  float* const row = inv.Workspace<float>(static_cast<size_t>(problem.n));
  for (int64_t m = 0; m < problem.m; ++m) {
    fill(row, 0, m, 0, problem.n);
    for (int64_t n = 0; n < problem.n; n += kTileCols)
      out.on_block(out.context,
                   {row + n, problem.n, m, 1, n, std::min(kTileCols, problem.n - n), 0});
  }
}

float* Grow(Invocation& inv, float*& buffer, size_t& floats, size_t wanted) {
  if (floats < wanted) {
    buffer = inv.Workspace<float>(wanted);
    floats = wanted;
  }
  return buffer;
}

template <class T>
void GemmOf(Invocation& inv, const GemmProblem& problem, GemmBuffers& buffers) {
  const GemmOutput& out = problem.out;
  Pass pass, next;
  int64_t widest = 0;
  for (Cursor at; NextPass<T>(problem.segments, at, pass);)
    widest = std::max(widest, pass.panel_words);
  if (widest == 0) return EmptySum(inv, problem);
  Cursor at;
  NextPass<T>(problem.segments, at, pass);
  bool more = NextPass<T>(problem.segments, at, next);

  // Sums between passes live in C itself when it is f32.
  float* partial = nullptr;
  int64_t partial_stride = problem.n;
  if (more && !out.on_block && out.dtype == DType::kF32) {
    partial = static_cast<float*>(out.data);
    partial_stride = out.stride;
  } else if (more) {
    partial = Grow(inv, buffers.partial, buffers.partial_floats,
                   static_cast<size_t>(problem.m * problem.n));
  }
  const int64_t chunk =
      std::min(RoundUp(problem.n, kPanel),
               RoundUp(std::max(kTileCols, kPackedBytes / (widest * 4)), kTileCols));
  float* packed =
      Grow(inv, buffers.packed, buffers.packed_floats, static_cast<size_t>(chunk * widest));

  const float* addend = out.addend;
  int64_t addend_stride = out.addend_stride;
  for (;;) {
    const bool keep = !more && out.on_block;
    for (int64_t n0 = 0; n0 < problem.n; n0 += chunk) {
      const int64_t n = std::min(chunk, problem.n - n0);
      PackPanels<T>(inv, pass, n0, n, packed);
      const TileGrid grid = CutTiles<T>(problem.m, n, pass.k, keep);
      const TileJob<T> job{problem, pass, grid, n0, n, packed};
      const auto run = [&](auto* data, int64_t stride, const float* bias) {
        using Out = std::remove_pointer_t<decltype(data)>;
        RunTiles<T, Out>(inv, job, {data, stride, addend, addend_stride, bias},
                         keep ? &out : nullptr);
      };
      if (more)
        run(partial, partial_stride, nullptr);
      else if (keep || out.dtype == DType::kF32)
        run(static_cast<float*>(out.data), out.stride, out.bias);
      else
        run(static_cast<bf16*>(out.data), out.stride, out.bias);
    }
    if (!more) return;
    addend = partial;
    addend_stride = partial_stride;
    pass = next;
    more = NextPass<T>(problem.segments, at, next);
  }
}

}  // namespace

void Gemm(Invocation& inv, const GemmProblem& problem, GemmBuffers& buffers) {
  if (problem.m == 0 || problem.n == 0) return;
  DispatchFloat(problem.dtype, [&]<class T>() { GemmOf<T>(inv, problem, buffers); });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
