// levels: generic avx2 avx512 avx512bf16 amx
// The driver: cuts C into tiles, packs B once per pass, runs the inner kernels.
#include "native/cpu/gemm/gemm.h"

#include <algorithm>

#include "native/cpu/gemm/gemv.h"
#include "native/cpu/gemm/tiles.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class T, class Out>
void RunColumns(Invocation& inv, const TileJob<T>& job, const ColumnsEpilogue<Out>& epilogue) {
  const size_t floats = TileJob<T>::ScratchFloats(job.grid);
  inv.ReserveScratch(floats * sizeof(float));
  inv.ParallelFor(job.grid.down * job.grid.across, [&](int64_t tile, int worker) noexcept {
    job.Run(tile, worker, inv.Scratch<float>(worker, floats), false, epilogue);
  });
}

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
  if (!out.columns.empty()) {
    for (int64_t m = 0; m < problem.m; ++m)
      DispatchFloat(out.dtype, [&]<class Out>() {
        const ColumnsEpilogue<Out> store{out.columns};
        for (int64_t j = 0; j < problem.n; j += kLanes) store(m, j, Zero(), problem.n - j);
      });
    return;
  }
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

bool HasK(const GemmProblem& problem) {
  for (const GemmSegment& s : problem.segments)
    if (s.k > 0) return true;
  return false;
}

float* Grow(Invocation& inv, float*& buffer, size_t& floats, size_t wanted) {
  if (floats < wanted) {
    buffer = inv.Workspace<float>(wanted);
    floats = wanted;
  }
  return buffer;
}

// The product in `slices` of K at once, each into a sum of its own.
template <class T>
void SlicedGemm(Invocation& inv, const GemmProblem& problem, int64_t slices, GemmBuffers& buffers) {
  const GemmSegment& segment = problem.segments[0];
  const GemmOutput& out = problem.out;
  const int64_t m = problem.m, n = problem.n, words = WordsOf<T>(segment.k);
  Pass whole;
  whole.Add<T>(segment, 0, segment.k);
  float* packed = Grow(inv, buffers.packed, buffers.packed_floats,
                       static_cast<size_t>(RoundUp(n, kPanel) * whole.panel_words));
  PackPanels<T>(inv, whole, 0, n, packed);

  const int64_t slice = RoundUp((words + slices - 1) / slices, kLanes);
  slices = (words + slice - 1) / slice;
  float* sums =
      Grow(inv, buffers.partial, buffers.partial_floats, static_cast<size_t>(slices * m * n));
  const TileGrid grid =
      CutTiles<T>(m, n, slice * kPerWord<T>, false, std::max<int64_t>(1, 12 / slices));
  const int64_t tiles = grid.down * grid.across;
  const size_t floats = TileJob<T>::ScratchFloats(grid);
  inv.ReserveScratch(floats * sizeof(float));
  inv.ParallelFor(slices * tiles, [&](int64_t tile, int worker) noexcept {
    const int64_t s = tile / tiles, k0 = s * slice * kPerWord<T>;
    Pass pass = whole;
    pass.k = pass.pieces[0].len = std::min(slice * kPerWord<T>, segment.k - k0);
    pass.pieces[0].k0 = k0;
    pass.pieces[0].word0 = s * slice;
    const TileJob<T> job{problem, pass, grid, 0, n, packed};
    const StoreEpilogue<float> store{sums + s * m * n, n, nullptr, 0, nullptr};
    job.Run(tile % tiles, worker, inv.Scratch<float>(worker, floats), false, store);
  });

  constexpr int64_t kGroup = 1 << 15;  // elements of C a tile joins
  const int64_t rows = std::max<int64_t>(1, kGroup / n);
  DispatchFloat(out.dtype, [&]<class Out>() {
    const StoreEpilogue<Out> store{static_cast<Out*>(out.data), out.stride, out.addend,
                                   out.addend_stride, out.bias};
    inv.ParallelFor((m + rows - 1) / rows, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(m, (tile + 1) * rows);
      for (int64_t i = tile * rows; i < end; ++i)
        for (int64_t j = 0; j < n; j += kLanes) {
          const float* at = sums + i * n + j;
          Vec sum = LoadN(at, n - j);
          for (int64_t s = 1; s < slices; ++s) sum = sum + LoadN(at + s * m * n, n - j);
          store(i, j, sum, n - j);
        }
    });
  });
}

template <class T>
void GemmOf(Invocation& inv, const GemmProblem& problem, GemmBuffers& buffers) {
  const GemmOutput& out = problem.out;
  if (IsGemv(problem) && HasK(problem))
    return DispatchFloat(out.dtype, [&]<class Out>() {
      Gemv<T>(inv, problem,
              StoreEpilogue<Out>{static_cast<Out*>(out.data), out.stride, out.addend,
                                 out.addend_stride, out.bias});
    });
  const bool plain = !out.on_block && out.columns.empty();
  if (problem.segments.size() == 1 && plain) {
    const int64_t slices = SlicesOfK<T>(problem.m, problem.n, problem.segments[0].k);
    if (slices > 1) return SlicedGemm<T>(inv, problem, slices, buffers);
  }
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
  if (more && plain && out.dtype == DType::kF32) {
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
      if (more) {
        run(partial, partial_stride, nullptr);
      } else if (!out.columns.empty()) {
        DispatchFloat(out.dtype, [&]<class Out>() {
          const ColumnsEpilogue<Out> store{out.columns, addend, addend_stride};
          RunColumns<T, Out>(inv, job, store);
        });
      } else if (keep || out.dtype == DType::kF32)
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

// One product of a batch, on one thread; K in one pass.
template <class T>
void GemmAlone(const GemmProblem& problem, const Pass& pass, const TileGrid& grid, float* scratch) {
  const GemmOutput& out = problem.out;
  float* const packed = scratch + TileJob<T>::ScratchFloats(grid);
  PackColumnsOf<T>(pass, 0, problem.n, packed);
  const TileJob<T> job{problem, pass, grid, 0, problem.n, packed};
  for (int64_t tile = 0; tile < grid.down * grid.across; ++tile)
    DispatchFloat(out.dtype, [&]<class Out>() {
      job.Run(tile, 0, scratch, false,
              StoreEpilogue<Out>{static_cast<Out*>(out.data), out.stride, out.addend,
                                 out.addend_stride, out.bias});
    });
}

template <class T>
void BatchOf(Invocation& inv, const GemmBatch& batch) {
  const GemmProblem& one = batch.problem;
  const GemmSegment& like = one.segments[0];
  const int64_t work = one.m * one.n * std::max<int64_t>(like.k, 1);
  // Large products are cut into tiles one by one; small ones share a tile with their neighbours.
  const bool small = like.k > 0 && like.k <= kPassWordsDown && work <= kTileWork<T> / 2 &&
                     (batch.count >= 8 || work <= kTileWork<T> / 64);
  const auto at = [&](int64_t i, GemmSegment& segment) {
    GemmProblem problem = one;
    segment = like;
    int64_t a = 0, b = 0;
    batch.offsets(batch.context, i, a, b);
    segment.a.data = static_cast<const T*>(like.a.data) + a;
    segment.b.data = static_cast<const T*>(like.b.data) + b;
    problem.out.data = static_cast<std::byte*>(one.out.data) +
                       i * one.m * one.n * static_cast<int64_t>(ItemSize(one.out.dtype));
    problem.segments = {&segment, 1};
    return problem;
  };
  if (!small) {
    GemmBuffers buffers;
    for (int64_t i = 0; i < batch.count; ++i) {
      GemmSegment segment;
      const GemmProblem problem = at(i, segment);
      GemmOf<T>(inv, problem, buffers);
    }
    return;
  }
  const TileGrid grid = CutTiles<T>(one.m, one.n, like.k, false, 1);
  const size_t floats =
      TileJob<T>::ScratchFloats(grid) +
      static_cast<size_t>(RoundUp(one.n, kPanel) * RoundUp(WordsOf<T>(like.k), kLanes));
  const int64_t group =
      std::clamp<int64_t>(kTileWork<T> / 8 / work, 1, std::max<int64_t>(1, batch.count / 16));
  inv.ReserveScratch(floats * sizeof(float));
  inv.ParallelFor((batch.count + group - 1) / group, [&](int64_t tile, int worker) noexcept {
    float* const scratch = inv.Scratch<float>(worker, floats);
    const int64_t end = std::min(batch.count, (tile + 1) * group);
    for (int64_t i = tile * group; i < end; ++i) {
      GemmSegment segment;
      const GemmProblem problem = at(i, segment);
      Pass pass;
      pass.Add<T>(segment, 0, segment.k);
      GemmAlone<T>(problem, pass, grid, scratch);
    }
  });
}

}  // namespace

void Gemm(Invocation& inv, const GemmBatch& batch) {
  if (batch.count == 0 || batch.problem.m == 0 || batch.problem.n == 0) return;
  DispatchFloat(batch.problem.dtype, [&]<class T>() { BatchOf<T>(inv, batch); });
}

void Gemm(Invocation& inv, const GemmProblem& problem, GemmBuffers& buffers) {
  if (problem.m == 0 || problem.n == 0) return;
  DispatchFloat(problem.dtype, [&]<class T>() { GemmOf<T>(inv, problem, buffers); });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
