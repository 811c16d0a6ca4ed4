// The k largest of each row, sorted; ties by lower index, NaN above all numbers.
//
// Work: a block a row, of 128 threads up to 1024 elements, of 1024 above. An element is a 64-bit
// entry, its ordered bits over its index counted down, so no two are equal. The least entry to keep
// is searched by digits of 8 bits from the top, each a pass over the row (from cache) that ends the
// search once a bucket is taken whole: one to four passes for floats that differ. Entries kept are
// gathered in any order, then sorted (bitonic): in shared memory up to 4096 of them, 32 KiB, else
// in a workspace. Shared: 1 KiB of counts beside it.
#include "native/cuda/ordered.cuh"
#include "native/cuda/row.cuh"

namespace fuselm::cuda {
namespace {

constexpr int64_t kInShared = 4096;
constexpr int kDigits = 256;

struct Problem {
  Rows x;
  int64_t size, k, padded;  // padded: k rounded up to a power of two
  void* values;
  int32_t* indices;
  Mass* room;  // [rows][padded], null for shared memory
};

// Larger for what comes first: by value, then by lower index.
__device__ __forceinline__ Mass Entry(float value, int64_t index) {
  const uint32_t key = value != value ? 0xffffffffu : Ordered(value + 0.0f);  // -0 equals 0
  return static_cast<Mass>(key) << 32 | ~static_cast<uint32_t>(index);
}

template <class T>
__global__ void __launch_bounds__(1024) TopKRows(const __grid_constant__ Problem p) {
  FUSELM_DYNAMIC_SHARED(Mass, sorted_here);
  __shared__ uint32_t histogram[kDigits];
  __shared__ Mass prefix, remaining;
  __shared__ int found, taken;
  const T* const x = p.x.At<T>(blockIdx.x);
  Mass* const sorted = p.room == nullptr ? sorted_here : p.room + blockIdx.x * p.padded;
  const int thread = threadIdx.x, threads = blockDim.x;
  const RowPlace at{blockIdx.x, thread, threads};
  if (thread == 0) {
    prefix = 0;
    remaining = static_cast<Mass>(p.k);
    found = taken = 0;
  }
  for (int64_t i = p.k + thread; i < p.padded; i += threads) sorted[i] = 0;  // below every entry
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int b = thread; b < kDigits; b += threads) histogram[b] = 0;
    __syncthreads();
    if (found) break;
    const Mass top = prefix;
    ReadRow(
        at, p.size,
        [&](int64_t i, float v) {
          const Mass entry = Entry(v, i);
          if (shift < 56 && entry >> (shift + 8) != top >> (shift + 8)) return;
          atomicAdd(&histogram[entry >> shift & (kDigits - 1)], 1u);
        },
        x);
    __syncthreads();
    if (thread < kWarp) {
      const Mass wanted = remaining;
      const Border border = FindBorder<kDigits>(histogram, wanted);
      __syncwarp();  // every lane has read `remaining`: shuffles do not order memory
      if (thread == 0) {
        prefix |= static_cast<Mass>(border.bucket) << shift;
        remaining = wanted - border.above;
        found = border.own == wanted - border.above;
      }
    }
    __syncthreads();
  }
  __syncthreads();
  const Mass least = prefix;
  ReadRow(
      at, p.size,
      [&](int64_t i, float v) {
        const Mass entry = Entry(v, i);
        if (entry >= least) sorted[atomicAdd(&taken, 1)] = entry;
      },
      x);
  // Bitonic, largest first.
  for (int64_t run = 2; run <= p.padded; run *= 2) {
    for (int64_t apart = run / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (int64_t i = thread; i < p.padded / 2; i += threads) {
        const int64_t low = i / apart * 2 * apart + i % apart, high = low + apart;
        const Mass a = sorted[low], b = sorted[high];
        const bool falls = (low & run) == 0;
        if (falls == (a < b)) {
          sorted[low] = b;
          sorted[high] = a;
        }
      }
    }
  }
  __syncthreads();
  for (int64_t i = thread; i < p.k; i += threads) {
    const auto index = static_cast<int32_t>(~static_cast<uint32_t>(sorted[i]));
    static_cast<T*>(p.values)[blockIdx.x * p.k + i] = x[index];
    p.indices[blockIdx.x * p.k + i] = index;
  }
}

// 0 x, 1 values, 2 indices; [k]
void TopK(const Arguments& in) {
  const View &x = in[0], &values = in[1], &indices = in[2];
  const int last = x.rank - 1;
  const int64_t k = in.i64(0), size = last < 0 ? 0 : x.shape[last], rows = x.rows();
  Require(k >= 1 && k <= size && size < (int64_t{1} << 31) && (size <= 1 || x.stride[last] == 1),
          ErrorCode::kShape, "top_k: x must be [.., V] with rows of stride 1 and 1 <= k <= V");
  Require(values.contiguous() && values.dtype == x.dtype && values.numel() == rows * k &&
              indices.contiguous() && indices.dtype == DType::kI32 && indices.numel() == rows * k &&
              rows < (int64_t{1} << 31),
          ErrorCode::kShape, "top_k: values and indices must be [.., k], like x and i32");
  if (rows == 0) return;
  int64_t padded = 1;
  while (padded < k) padded *= 2;
  const bool shared = padded <= kInShared;
  const Problem p{ToRows(x),
                  size,
                  k,
                  padded,
                  values.data,
                  indices.as<int32_t>(),
                  shared ? nullptr : in.Workspace<Mass>(rows * padded)};
  const Grid grid{dim3(static_cast<unsigned>(rows)), size <= 1024 ? 128 : 1024,
                  shared ? padded * static_cast<int64_t>(sizeof(Mass)) : 0};
  DispatchFloat(x.dtype, [&]<class T>() { Launch(in, "top_k", grid, TopKRows<T>, p); });
}
FUSELM_CUDA_KERNEL("top_k(x) -> (values, indices) [k]", kFloat, TopK);

}  // namespace
}  // namespace fuselm::cuda
