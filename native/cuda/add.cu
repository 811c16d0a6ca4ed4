// add: y = a + b, f32 and bf16, any strides (0 repeats). bf16 adds in f32 and rounds once.
//
// Work: one thread a 16-byte vector of a dense operand, grid-stride; strided operands one thread an
// element. No shared memory. Dense operands must be 16-byte aligned for the vector path (what the
// allocator gives; offsets that break it take the strided path). Moves three arrays once: the
// target is the device's copy bandwidth.

#include <algorithm>

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
  int32_t rank;
  int64_t shape[FUSELM_PLUGIN_MAX_RANK];
  int64_t stride_a[FUSELM_PLUGIN_MAX_RANK];
  int64_t stride_b[FUSELM_PLUGIN_MAX_RANK];
  int64_t stride_y[FUSELM_PLUGIN_MAX_RANK];
};

__device__ float Load(float x) { return x; }
__device__ float Load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void Put(float* y, float x) { *y = x; }
__device__ void Put(__nv_bfloat16* y, float x) { *y = __float2bfloat16_rn(x); }

template <class T>
__global__ void __launch_bounds__(kThreads) AddDense(const AddArgs args) {
  constexpr int kPack = 16 / sizeof(T);
  struct alignas(16) Pack {
    T v[kPack];
  };
  const int64_t packs = args.count / kPack;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = first; i < packs; i += step) {
    const Pack a = static_cast<const Pack*>(args.a)[i];
    const Pack b = static_cast<const Pack*>(args.b)[i];
    Pack y;
#pragma unroll
    for (int k = 0; k < kPack; ++k) Put(&y.v[k], Load(a.v[k]) + Load(b.v[k]));
    static_cast<Pack*>(args.y)[i] = y;
  }
  const int64_t tail = packs * kPack + first;
  if (tail < args.count) {
    Put(static_cast<T*>(args.y) + tail,
        Load(static_cast<const T*>(args.a)[tail]) + Load(static_cast<const T*>(args.b)[tail]));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) AddStrided(const AddArgs args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < args.count;
       i += step) {
    int64_t left = i, a = 0, b = 0, y = 0;
#pragma unroll
    for (int axis = FUSELM_PLUGIN_MAX_RANK - 1; axis >= 0; --axis) {
      if (axis >= args.rank) continue;  // unrolled: a run-time index would go to local memory
      const int64_t at = left % args.shape[axis];
      left /= args.shape[axis];
      a += at * args.stride_a[axis];
      b += at * args.stride_b[axis];
      y += at * args.stride_y[axis];
    }
    Put(static_cast<T*>(args.y) + y,
        Load(static_cast<const T*>(args.a)[a]) + Load(static_cast<const T*>(args.b)[b]));
  }
}

bool Dense(const FuselmTensor& t) {
  int64_t expect = 1;
  for (int axis = t.rank - 1; axis >= 0; --axis) {
    if (t.shape[axis] != 1 && t.stride[axis] != expect) return false;
    expect *= t.shape[axis];
  }
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

template <class T>
void Launch(const Arguments& in) {
  const FuselmTensor &a = in[0], &b = in[1], &y = in[2];
  AddArgs args{};
  args.a = a.data;
  args.b = b.data;
  args.y = y.data;
  args.rank = y.rank;
  args.count = 1;
  bool same = a.rank == y.rank && b.rank == y.rank;
  for (int i = 0; i < y.rank && same; ++i) {
    same = a.shape[i] == y.shape[i] && b.shape[i] == y.shape[i];
    args.shape[i] = y.shape[i];
    args.stride_a[i] = a.stride[i];
    args.stride_b[i] = b.stride[i];
    args.stride_y[i] = y.stride[i];
    args.count *= y.shape[i];
  }
  // Broadcasting is done in TypeScript, as strides of 0.
  Require(same, ErrorCode::kShape, "add: a and b must have the shape of y");
  if (args.count == 0) return;
  const bool dense = Dense(a) && Dense(b) && Dense(y);
  const int64_t items = dense ? (args.count * int64_t{sizeof(T)} + 15) / 16 : args.count;
  const int64_t blocks = std::min((items + kThreads - 1) / kThreads, kMaxBlocks);
  const dim3 grid(static_cast<unsigned>(blocks));
  if (dense) {
    AddDense<T><<<grid, kThreads, 0, in.stream>>>(args);
  } else {
    AddStrided<T><<<grid, kThreads, 0, in.stream>>>(args);
  }
  Check(cudaGetLastError(), "add");
}

void Add(const Arguments& in) {
  for (const FuselmTensor& t : in.tensors) {
    Require(t.dtype == in[2].dtype, ErrorCode::kShape, "add: a, b and y must have one dtype");
  }
  if (in[2].dtype == static_cast<int32_t>(DType::kF32)) {
    Launch<float>(in);
  } else {
    Launch<__nv_bfloat16>(in);
  }
}

FUSELM_CUDA_KERNEL(add, "add(a, b) -> (y)", kFloat, 3, Add);

}  // namespace
}  // namespace fuselm::cuda
