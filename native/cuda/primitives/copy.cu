// Copies: dtype conversion, strided to contiguous, into a view, several views into one; fill, iota.
//
// pointwise.cuh spreads the work of all but transpositions: where the source has unit stride along
// another axis than the target, blocks of 256 threads move squares of 32 x 32 elements through
// shared memory (32 x 33 elements, the odd row against bank conflicts), so that both sides are
// touched in whole sectors.
#include <utility>

#include "native/cuda/bits.cuh"
#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kSide = 32, kThreads = 256;

struct Squares {
  Axes<2> rest;            // the axes beside the two, target then source
  int64_t across, down;    // elements along the target's unit stride, and along the source's
  int64_t y_step, x_step;  // of the target down, of the source across
  const void* x;
  void* y;
};

template <class T>
__global__ void __launch_bounds__(kThreads) Transpose(const __grid_constant__ Squares s) {
  __shared__ T square[kSide][kSide + 1];
  const int64_t wide = (s.across + kSide - 1) / kSide, high = (s.down + kSide - 1) / kSide;
  const int64_t left = blockIdx.x % wide * kSide, top = blockIdx.x / wide % high * kSide;
  int64_t at[2];
  s.rest.Locate(blockIdx.x / wide / high, at);
  T* const y = static_cast<T*>(s.y) + at[0];
  const T* const x = static_cast<const T*>(s.x) + at[1];
  const int lane = threadIdx.x % kSide;
  for (int row = threadIdx.x / kSide; row < kSide; row += kThreads / kSide) {
    if (left + row < s.across && top + lane < s.down)
      square[row][lane] = x[(left + row) * s.x_step + top + lane];
  }
  __syncthreads();
  for (int row = threadIdx.x / kSide; row < kSide; row += kThreads / kSide) {
    if (top + row < s.down && left + lane < s.across)
      y[(top + row) * s.y_step + left + lane] = square[lane][row];
  }
}

// Whether y = x is a transposition worth squares.
bool AsSquares(const View& y, const View& x, Squares& s) {
  const View* const views[] = {&y, &x};
  Axes<2> axes = MergeAxes(views);
  const int last = axes.rank - 1;
  if (last < 1 || axes.stride[0][last] != 1 || axes.size[last] < 16) return false;
  for (int other = 0; other < last; ++other) {
    if (axes.stride[1][other] != 1 || axes.size[other] < 16) continue;
    s.across = axes.size[last];
    s.down = axes.size[other];
    s.y_step = axes.stride[0][other];
    s.x_step = axes.stride[1][last];
    s.x = x.data;
    s.y = y.data;
    for (int i = 0; i < last; ++i) {
      if (i != other) s.rest.Add(axes.size[i], {axes.stride[0][i], axes.stride[1][i]});
    }
    s.rest.Finish();
    return CeilDiv(s.across, kSide) * CeilDiv(s.down, kSide) * s.rest.count < int64_t{1} << 31;
  }
  return false;
}

void CopySame(const Arguments& in, const char* op, const View& y, const View& x) {
  RequireSameShape(op, x, y);
  RequireDType(op, y, x.dtype);
  if (y.numel() == 0) return;
  Squares squares{};
  const bool transposes = AsSquares(y, x, squares);
  DispatchBits(y.dtype, [&]<class T>() {
    if (!transposes) return Pointwise<T, T>(in, op, Same{}, {&y, &x});
    const int64_t blocks =
        CeilDiv(squares.across, kSide) * CeilDiv(squares.down, kSide) * squares.rest.count;
    Launch(in, op, {dim3(static_cast<unsigned>(blocks)), kThreads}, Transpose<T>, squares);
  });
}
void Contiguous(const Arguments& in) { CopySame(in, "contiguous", in[1], in[0]); }
void CopyInto(const Arguments& in) { CopySame(in, "copy_into", in[0], in[1]); }
FUSELM_CUDA_KERNEL("contiguous(x) -> (y)", kAnyDType, Contiguous);
FUSELM_CUDA_KERNEL("copy_into(target!, source)", kAnyDType, CopyInto);

// y is written part by part along `axis`; parts follow it in the record.
void Concat(const Arguments& in) {
  const View& y = in[0];
  const int64_t axis = in.i64(0);
  Require(axis >= 0 && axis < y.rank, ErrorCode::kShape,
          "concat: axis outside the rank of the output");
  int64_t at = 0;
  for (size_t p = 1; p < in.size(); ++p) {
    View window = y;
    Require(in[p].rank == y.rank && at + in[p].shape[axis] <= y.shape[axis], ErrorCode::kShape,
            "concat: parts do not fit the output");
    window.data = y.as<std::byte>() + at * y.stride[axis] * static_cast<int64_t>(ItemSize(y.dtype));
    window.shape[axis] = in[p].shape[axis];
    CopySame(in, "concat", window, in[p]);
    at += in[p].shape[axis];
  }
  Require(at == y.shape[axis], ErrorCode::kShape, "concat: parts do not fill the output");
}
FUSELM_CUDA_KERNEL("concat(...(part)) -> (y) [axis]", kAnyDType, Concat);

// ------------------------------------------------------------------------------- conversions

constexpr bool IsFloat(DType d) {
  return d == DType::kF32 || d == DType::kBF16 || d == DType::kF64;
}
__host__ __device__ inline double Clamp(double d, double low, double high) {
  return d < low ? low : d > high ? high : d;
}

// A number as the bits of a dtype. From a float to an integer it truncates and saturates, NaN is 0.
__host__ __device__ inline uint64_t EncodeFloat(double value, DType to) {
  const double whole = value != value ? 0 : trunc(value);
  switch (to) {
    case DType::kF64: return __builtin_bit_cast(uint64_t, value);
    case DType::kF32: return __builtin_bit_cast(uint32_t, static_cast<float>(value));
    case DType::kBF16: {
      const uint32_t u = __builtin_bit_cast(uint32_t, static_cast<float>(value));
      return (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u
                                             : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    }
    case DType::kI32:
      return static_cast<uint64_t>(static_cast<int64_t>(Clamp(whole, -0x1p31, 0x1p31 - 1)));
    case DType::kU32: return static_cast<uint64_t>(Clamp(whole, 0, 0x1p32 - 1));
    case DType::kI8: return static_cast<uint64_t>(static_cast<int64_t>(Clamp(whole, -128, 127)));
    case DType::kU8: return static_cast<uint64_t>(Clamp(whole, 0, 255));
    case DType::kU16: return static_cast<uint64_t>(Clamp(whole, 0, 65535));
  }
  return 0;
}
__device__ __forceinline__ uint64_t LoadBits(const void* data, int64_t at, size_t bytes) {
  switch (bytes) {
    case 1: return static_cast<const uint8_t*>(data)[at];
    case 2: return static_cast<const uint16_t*>(data)[at];
    case 4: return static_cast<const uint32_t*>(data)[at];
    default: return static_cast<const uint64_t*>(data)[at];
  }
}
__device__ __forceinline__ void StoreBits(void* data, int64_t at, size_t bytes, uint64_t bits) {
  switch (bytes) {
    case 1: static_cast<uint8_t*>(data)[at] = static_cast<uint8_t>(bits); return;
    case 2: static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>(bits); return;
    case 4: static_cast<uint32_t*>(data)[at] = static_cast<uint32_t>(bits); return;
    default: static_cast<uint64_t*>(data)[at] = bits;
  }
}
__device__ __forceinline__ double DecodeFloat(uint64_t bits, DType from) {
  switch (from) {
    case DType::kF64: return __builtin_bit_cast(double, bits);
    case DType::kF32: return __uint_as_float(static_cast<uint32_t>(bits));
    default: return __uint_as_float(static_cast<uint32_t>(bits) << 16);
  }
}
__device__ __forceinline__ int64_t DecodeInteger(uint64_t bits, DType from) {
  switch (from) {
    case DType::kI32: return static_cast<int32_t>(bits);
    case DType::kI8: return static_cast<int8_t>(bits);
    default: return static_cast<int64_t>(bits);  // zeros above
  }
}

// Any dtype to any other, by way of numbers that hold both exactly; integers to integers wrap.
struct AnyToAny {
  Axes<2> axes;
  void* y;
  const void* x;
  DType from, to;
  uint32_t x_bytes, y_bytes;
  bool from_float, to_float;
};
__global__ void __launch_bounds__(kThreads) ConvertAny(const __grid_constant__ AnyToAny c) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < c.axes.count;
       i += step) {
    int64_t at[2];
    c.axes.Locate(i, at);
    uint64_t bits = LoadBits(c.x, at[1], c.x_bytes);
    if (c.from_float) {
      bits = EncodeFloat(DecodeFloat(bits, c.from), c.to);
    } else {
      const int64_t value = DecodeInteger(bits, c.from);
      bits =
          c.to_float ? EncodeFloat(static_cast<double>(value), c.to) : static_cast<uint64_t>(value);
    }
    StoreBits(c.y, at[0], c.y_bytes, bits);
  }
}

void Cast(const Arguments& in) {
  const View &x = in[0], &y = in[1];
  RequireSameShape("cast", x, y);
  if (x.dtype == y.dtype) return CopySame(in, "cast", y, x);
  const auto is = [&](DType from, DType to) { return x.dtype == from && y.dtype == to; };
  if (is(DType::kF32, DType::kBF16)) return Pointwise<bf16, float>(in, "cast", Same{}, {&y, &x});
  if (is(DType::kBF16, DType::kF32)) return Pointwise<float, bf16>(in, "cast", Same{}, {&y, &x});
  if (is(DType::kU8, DType::kF32)) return Pointwise<float, uint8_t>(in, "cast", Same{}, {&y, &x});
  if (y.numel() == 0) return;
  const View* const views[] = {&y, &x};
  AnyToAny c{MergeAxes(views),
             y.data,
             x.data,
             x.dtype,
             y.dtype,
             static_cast<uint32_t>(ItemSize(x.dtype)),
             static_cast<uint32_t>(ItemSize(y.dtype)),
             IsFloat(x.dtype),
             IsFloat(y.dtype)};
  c.axes.Finish();
  const int64_t blocks = std::min(CeilDiv(y.numel(), kThreads), pointwise::kMaxBlocks);
  Launch(in, "cast", {dim3(static_cast<unsigned>(blocks)), kThreads}, ConvertAny, c);
}
FUSELM_CUDA_KERNEL("cast(x) -> (y) [dtype]", kAnyDType, Cast);

// ----------------------------------------------------------------------------------- from nothing

template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};

void Fill(const Arguments& in) {
  const View& y = in[0];
  const uint64_t bits = EncodeFloat(in.f64(0), y.dtype);
  DispatchBits(y.dtype, [&]<class T>() {
    Pointwise<T>(in, "fill", Constant<T>{static_cast<T>(bits)}, {&y});
  });
}
FUSELM_CUDA_KERNEL("fill(y!) [value]", kAnyDType, Fill);

template <class T>
__global__ void __launch_bounds__(kThreads)
    Count(T* y, int64_t n, int64_t stride, double start, double step, DType dtype) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  // rounded twice, as on the CPU
  if (i < n)
    y[i * stride] = static_cast<T>(
        EncodeFloat(__dadd_rn(start, __dmul_rn(static_cast<double>(i), step)), dtype));
}

void Iota(const Arguments& in) {
  const View& y = in[0];
  Require(y.rank == 1, ErrorCode::kShape, "iota: the output must have one axis");
  if (y.shape[0] == 0) return;
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(y.shape[0], kThreads))), kThreads};
  DispatchBits(y.dtype, [&]<class T>() {
    Launch(in, "iota", grid, Count<T>, y.as<T>(), y.shape[0], y.stride[0], in.f64(0), in.f64(1),
           y.dtype);
  });
}
FUSELM_CUDA_KERNEL("iota(y!) [start, step]", kAnyDType, Iota);

}  // namespace
}  // namespace fuselm::cuda
