// levels: generic avx2 avx512 avx512bf16 amx
// y = x W^T + b with W in int8 (values [N, K], float32 scales per row or per group of K), and the
// gradient of x. x enters as it is, or quantised as the weights are (linear_int8_dynamic).
#include "native/cpu/gemm/int8_gemv.h"
#include "native/cpu/gemm/operand.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// Throws unless values [N, K] and scales fit each other and the group.
Int8Weights WeightsOf(const char* what, const View& values, const View& scales, int64_t group) {
  Require(values.rank == 2 && values.dtype == DType::kI8 && values.contiguous() &&
              (group == 0 || group == 32 || group == 64 || group == 128),
          ErrorCode::kShape, what);
  const Int8Weights w{values.as<int8_t>(), scales.as<float>(), values.dim(0), values.dim(1), group};
  Require(scales.dtype == DType::kF32 && scales.contiguous() && scales.rank == (group ? 2 : 1) &&
              scales.dim(0) == w.n && (group == 0 || scales.dim(1) == w.groups()),
          ErrorCode::kShape, what);
  return w;
}

struct Problem {
  RowMatrix x;
  Int8Weights w;
  const float* bias;
};

// 0 x, 1 values, 2 scales, 3 bias?, 4 y; [group]
Problem ProblemOf(Invocation& inv, const char* what) {
  const View& y = inv[4];
  const Int8Weights w = WeightsOf(what, inv[1], inv[2], inv.i64(0));
  const RowMatrix x = AsRows(inv, inv[0]);
  Require(x.cols == w.k && y.contiguous() && y.dtype == inv[0].dtype && y.dim(-1) == w.n &&
              x.rows * w.n == y.numel() && (!inv.has(3) || inv[3].numel() == w.n),
          ErrorCode::kShape, what);
  return {x, w, AsFloats(inv, inv[3])};
}

// No K: y is the bias alone.
template <class T>
void BiasOnly(const Problem& p, const Int8Store<T>& store) {
  for (int64_t m = 0; m < p.x.rows; ++m)
    for (int64_t n = 0; n < p.w.n; n += kLanes) store(m, n, Zero(), p.w.n - n);
}

void Linear(Invocation& inv) {
  const Problem p = ProblemOf(
      inv, "linear_int8: x [.., K], values i8 [N, K], scales, bias [N] and y [.., N] do not fit");
  if (p.x.rows == 0 || p.w.n == 0) return;
  DispatchFloat(inv[4].dtype, [&]<class T>() {
    const Int8Store<T> store{inv[4].as<T>(), p.w.n, p.bias};
    if (p.w.k == 0) return BiasOnly(p, store);
    if (p.x.rows <= kGemvRows) return Int8Gemv<T>(inv, p.x, p.w, store);
    Int8Gemm<FloatWords<T>>(
        inv, {static_cast<const T*>(p.x.data), p.x.stride, p.x.rows, nullptr, nullptr}, p.w, store);
  });
}

// Sum of n values of one step.
inline int32_t SumInt8(const int8_t* x, int64_t n) {
#if FUSELM_HAS_AVX512
  const __m512i one = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 64) {
    const __mmask64 mask = n - i >= 64 ? ~uint64_t{0} : (uint64_t{1} << (n - i)) - 1;
    sum = _mm512_dpbusd_epi32(sum, one, _mm512_maskz_loadu_epi8(mask, x + i));
  }
  return _mm512_reduce_add_epi32(sum);
#else
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
#endif
}

// x in int8: a scale for each row and group, and, for VPDPBUSD, a sum for each row and step.
template <class T>
Int8Rows<Int8Words> QuantizeX(Invocation& inv, const RowMatrix& x, const Int8Weights& w) {
  const Int8Steps<Int8Words> steps(w);
  const int64_t groups = w.groups(), size = w.group_size(), stride = RoundUp(w.k, 64) + 64;
  const size_t room = static_cast<size_t>(x.rows + kInt8Rows<Int8Words>);
  int8_t* const values = inv.Workspace<int8_t>(static_cast<size_t>(x.rows * stride));
  float* const scales = inv.Workspace<float>(room * groups);
  int32_t* const sums = FUSELM_HAS_AVX512 ? inv.Workspace<int32_t>(room * steps.count) : nullptr;
  const int64_t per_tile = std::max<int64_t>(1, (int64_t{1} << 15) / w.k);
  inv.ParallelFor((x.rows + per_tile - 1) / per_tile, [&](int64_t tile, int) noexcept {
    for (int64_t r = tile * per_tile; r < std::min(x.rows, (tile + 1) * per_tile); ++r) {
      const T* row = static_cast<const T*>(x.data) + r * x.stride;
      int8_t* out = values + r * stride;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = g * size, n = std::min(size, w.k - at);
        const float scale = ScaleOf(AbsMaxBits(row + at, n));
        scales[r * groups + g] = scale;
        QuantizeRow(row + at, n, scale, out + at);
      }
      if (!sums) continue;
      const int64_t step = steps.step * Int8Words::kPer;
      for (int64_t s = 0; s < steps.count; ++s)
        sums[r * steps.count + s] = SumInt8(out + s * step, std::min(step, w.k - s * step));
    }
  });
  // what a block computes beyond the last row and drops
  std::fill(scales + x.rows * groups, scales + room * groups, 0.0f);
  if (sums) std::fill(sums + x.rows * steps.count, sums + room * steps.count, 0);
  return {values, stride, x.rows, scales, sums};
}

void LinearDynamic(Invocation& inv) {
  const Problem p = ProblemOf(inv,
                              "linear_int8_dynamic: x [.., K], values i8 [N, K], scales, bias [N] "
                              "and y [.., N] do not fit");
  if (p.x.rows == 0 || p.w.n == 0) return;
  DispatchFloat(inv[4].dtype, [&]<class T>() {
    const Int8Store<T> store{inv[4].as<T>(), p.w.n, p.bias};
    if (p.w.k == 0) return BiasOnly(p, store);
    const Int8Rows<Int8Words> x = QuantizeX<T>(inv, p.x, p.w);
    if (p.x.rows <= kGemvRows) return Int8GemvDynamic<T>(inv, x, p.w, store);
    Int8Gemm<Int8Words>(inv, x, p.w, store);
  });
}

// kLanes weights of row n from column k on, at most `left` of them.
inline Vec WeightRow(const Int8Weights& w, int64_t n, int64_t k, int64_t left) {
  const Vec values = LoadInt8N(w.values + n * w.k + k, left);
  // lanes are a part of one group: panels start at multiples of kLanes, groups at multiples of 32
  const int64_t group = w.group ? k / w.group : 0;
  return values * Set(w.scales[n * w.groups() + group]);
}

// The words of rows n (and n + 1, when `left_n` reaches it) for kLanes columns, as ColWords.
template <class T>
inline Vec WeightWords(const Int8Weights& w, int64_t n, int64_t k, int64_t left,
                       [[maybe_unused]] int64_t left_n) {
#if FUSELM_GEMM_PAIRS
  if constexpr (kPerWord<T> == 2) {
    const auto half = [&](int64_t row) {
      return _mm512_cvtepu16_epi32(NarrowBf16(WeightRow(w, row, k, left).v));
    };
    const __m512i low = half(n);
    if (left_n < 2) return {_mm512_castsi512_ps(low)};
    return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(half(n + 1), 16)))};
  }
#endif
  const Vec row = WeightRow(w, n, k, left);
  if constexpr (std::is_same_v<T, float>) return row;
  // as the levels that multiply bf16 pairs see them
  bf16 rounded[kLanes];
  Store(rounded, row);
  return Load(rounded);
}

// 0 dy, 1 values, 2 scales, 3 dx; [group]: dx = dy W, with W in dy's dtype
void LinearDx(Invocation& inv) {
  constexpr const char* kFit =
      "linear_int8.dx: dy [.., N], values i8 [N, K], scales and dx [.., K] do not fit";
  const View& dx = inv[3];
  const Int8Weights w = WeightsOf(kFit, inv[1], inv[2], inv.i64(0));
  const RowMatrix dy = AsRows(inv, inv[0]);
  Require(dy.cols == w.n && dx.contiguous() && dx.dtype == inv[0].dtype && dx.dim(-1) == w.k &&
              dy.rows * w.k == dx.numel(),
          ErrorCode::kShape, kFit);
  if (dy.rows == 0 || w.k == 0) return;
  DispatchFloat(dx.dtype, [&]<class T>() {
    // K of the product runs down the rows of the weights
    const GemmSegment segment{
        dy.AlongColumns(),
        {.data = &w,
         .pack =
             [](const void* context, const GemmPanel& panel) {
               const Int8Weights& weights = *static_cast<const Int8Weights*>(context);
               PackDownK<T>(panel, [&](int64_t n, int64_t k, int64_t left, int64_t left_n) {
                 return WeightWords<T>(weights, n, k, left, left_n);
               });
             }},
        w.n};
    Gemm(inv, {.dtype = dx.dtype,
               .m = dy.rows,
               .n = w.k,
               .segments = {&segment, 1},
               .out = {.data = dx.data, .stride = w.k, .dtype = dx.dtype}});
  });
}

FUSELM_KERNEL("linear_int8(x, values, scales, bias?) -> (y) [group]", kFloat, Linear);
FUSELM_KERNEL("linear_int8_dynamic(x, values, scales, bias?) -> (y) [group]", kFloat,
              LinearDynamic);
FUSELM_KERNEL("linear_int8.dx(dy, values, scales) -> (dx) [group]", kFloat, LinearDx);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
