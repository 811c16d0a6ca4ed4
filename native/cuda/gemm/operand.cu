// Copies that make any view an operand, and the gradient of a bias.
//
// CopyRows: one thread an element, grid-stride; strided reads, dense writes. ColumnSums: a block
// sums 256 rows of 32 columns (8 rows at a time, joined through 1 KB of shared memory), then a
// thread a column joins the blocks in order: one pass over the matrix, bandwidth-bound.

#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;
constexpr int64_t kSumRows = 256;

struct CopyArgs {
  const void* from;
  Strided at;
  void* to;
  int64_t cols, stride, count;  // count: elements written, padding too
};

template <class T>
__global__ void __launch_bounds__(kThreads) Copy(const CopyArgs args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < args.count;
       i += step) {
    const int64_t row = i / args.stride, column = i % args.stride;
    static_cast<T*>(args.to)[i] =
        column < args.cols ? static_cast<const T*>(args.from)[args.at.At(row * args.cols + column)]
                           : T{};
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    SumRows(const T* from, int64_t stride, int64_t rows, int64_t cols, float* partial) {
  __shared__ float parts[kThreads / kWarp][kWarp];
  const int lane = threadIdx.x % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kSumRows;
  const int64_t end = min(rows, first + kSumRows);
  float sum = 0;
  if (column < cols) {
#pragma unroll 4
    for (int64_t r = first + warp; r < end; r += kThreads / kWarp)
      sum += ToFloat(from[r * stride + column]);
  }
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= cols) return;
  sum = 0;
#pragma unroll
  for (int w = 0; w < kThreads / kWarp; ++w) sum += parts[w][lane];
  partial[blockIdx.y * cols + column] = sum;
}

__global__ void __launch_bounds__(kThreads)
    JoinSums(const float* partial, int64_t chunks, int64_t cols, float* out, bool accumulate) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= cols) return;
  float sum = accumulate ? out[column] : 0.0f;
#pragma unroll 4
  for (int64_t c = 0; c < chunks; ++c) sum += partial[c * cols + column];
  out[column] = sum;
}

}  // namespace

void* CopyRows(const Arguments& in, const View& v, int64_t stride) {
  const int64_t cols = v.dim(-1), rows = cols == 0 ? 0 : v.numel() / cols;
  const int64_t item = static_cast<int64_t>(ItemSize(v.dtype));
  char* const to = in.Workspace<char>(std::max<int64_t>(1, rows * stride * item));
  if (rows == 0) return to;
  const CopyArgs args{v.data, ToStrided(v), to, cols, stride, rows * stride};
  const Grid grid{dim3(static_cast<unsigned>(std::min(CeilDiv(args.count, kThreads), kMaxBlocks))),
                  kThreads};
  switch (item) {
    case 1: Launch(in, "copy of rows", grid, Copy<uint8_t>, args); break;
    case 2: Launch(in, "copy of rows", grid, Copy<uint16_t>, args); break;
    default: Launch(in, "copy of rows", grid, Copy<uint32_t>, args);
  }
  return to;
}

RowMatrix AsRows(const Arguments& in, const View& v) {
  Require(v.rank >= 1, ErrorCode::kShape, "a matrix must have an axis");
  const int64_t cols = v.dim(-1);
  int64_t rows = 1;
  for (int i = 0; i < v.rank - 1; ++i) rows *= v.shape[i];
  bool uniform = true;
  int64_t stride = cols, expect = -1;
  for (int i = v.rank - 2; i >= 0; --i) {
    if (v.shape[i] == 1) continue;
    if (expect < 0)
      stride = v.stride[i];
    else
      uniform = uniform && v.stride[i] == expect;
    expect = v.stride[i] * v.shape[i];
  }
  const bool unit = cols <= 1 || v.step(-1) == 1;
  if (uniform && unit) return {v.data, rows, cols, stride};
  return {CopyRows(in, v, cols), rows, cols, cols};
}

void ColumnSums(const Arguments& in, const RowMatrix& m, DType dtype, float* out, bool accumulate) {
  if (m.cols == 0) return;
  const int64_t chunks = CeilDiv(m.rows, kSumRows);
  constexpr int64_t kMostChunks = 65535;
  Require(chunks <= kMostChunks, ErrorCode::kShape, "too many rows to sum");
  float* const partial = in.Workspace<float>(std::max<int64_t>(1, chunks * m.cols));
  if (chunks > 0) {
    const Grid grid{
        dim3(static_cast<unsigned>(CeilDiv(m.cols, kWarp)), static_cast<unsigned>(chunks)),
        kThreads};
    DispatchFloat(dtype, [&]<class T>() {
      Launch(in, "column sums", grid, SumRows<T>, static_cast<const T*>(m.data), m.stride, m.rows,
             m.cols, partial);
    });
  }
  Launch(in, "column sums", {dim3(static_cast<unsigned>(CeilDiv(m.cols, kThreads))), kThreads},
         JoinSums, partial, chunks, m.cols, out, accumulate);
}

void CheckBias(const View& bias, const char* what) {
  if (bias.data == nullptr) return;
  Require((bias.dtype == DType::kF32 || bias.dtype == DType::kBF16) && bias.contiguous(),
          ErrorCode::kShape, what);
}

}  // namespace fuselm::cuda
