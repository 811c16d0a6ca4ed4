// add: y = a + b, f32 and bf16, any strides (0 repeats). bf16 adds in f32 and rounds once.
//
// Work: one thread a 16-byte vector of a dense operand, grid-stride; strided operands one thread an
// element. No shared memory. Dense operands must be 16-byte aligned for the vector path (what the
// allocator gives; offsets that break it take the strided path). Moves three arrays once: the
// target is the device's copy bandwidth.

#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;

struct AddArgs {
  const void* a;
  const void* b;
  void* y;
  int64_t count;
  Strided at_a, at_b, at_y;
};

template <class T>
__global__ void __launch_bounds__(kThreads) AddDense(const AddArgs args) {
  constexpr int kPack = 16 / sizeof(T);
  using Vector = Pack<T, kPack>;
  const int64_t packs = args.count / kPack;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = first; i < packs; i += step) {
    const Vector a = static_cast<const Vector*>(args.a)[i];
    const Vector b = static_cast<const Vector*>(args.b)[i];
    Vector y;
#pragma unroll
    for (int k = 0; k < kPack; ++k) y.v[k] = FromFloat<T>(ToFloat(a.v[k]) + ToFloat(b.v[k]));
    static_cast<Vector*>(args.y)[i] = y;
  }
  const int64_t tail = packs * kPack + first;
  if (tail < args.count) {
    static_cast<T*>(args.y)[tail] = FromFloat<T>(ToFloat(static_cast<const T*>(args.a)[tail]) +
                                                 ToFloat(static_cast<const T*>(args.b)[tail]));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) AddStrided(const AddArgs args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < args.count;
       i += step) {
    static_cast<T*>(args.y)[args.at_y.At(i)] =
        FromFloat<T>(ToFloat(static_cast<const T*>(args.a)[args.at_a.At(i)]) +
                     ToFloat(static_cast<const T*>(args.b)[args.at_b.At(i)]));
  }
}

bool Dense(const View& v) {
  return v.contiguous() && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
}

template <class T>
void LaunchAdd(const Arguments& in) {
  const View &a = in[0], &b = in[1], &y = in[2];
  bool same = a.rank == y.rank && b.rank == y.rank;
  for (int i = 0; i < y.rank && same; ++i) {
    same = a.shape[i] == y.shape[i] && b.shape[i] == y.shape[i];
  }
  // Broadcasting is done in TypeScript, as strides of 0.
  Require(same, ErrorCode::kShape, "a and b must have the shape of y");
  const AddArgs args{a.data, b.data, y.data, y.numel(), ToStrided(a), ToStrided(b), ToStrided(y)};
  if (args.count == 0) return;
  const bool dense = Dense(a) && Dense(b) && Dense(y);
  const int64_t items = dense ? CeilDiv(args.count * int64_t{sizeof(T)}, 16) : args.count;
  const Grid grid{dim3(static_cast<unsigned>(std::min(CeilDiv(items, kThreads), kMaxBlocks))),
                  kThreads};
  if (dense) {
    Launch(in, "add", grid, AddDense<T>, args);
  } else {
    Launch(in, "add", grid, AddStrided<T>, args);
  }
}

void Add(const Arguments& in) {
  for (size_t i = 0; i < 2; ++i) {
    Require(in[i].dtype == in[2].dtype, ErrorCode::kShape, "a, b and y must have one dtype");
  }
  DispatchFloat(in[2].dtype, [&]<class T>() { LaunchAdd<T>(in); });
}

FUSELM_CUDA_KERNEL("add(a, b) -> (y)", kFloat, Add);

}  // namespace
}  // namespace fuselm::cuda
