// uniform: Philox words as floats, 24 bits each. normal: Box-Muller over two runs of uniforms,
// radius from element i and angle from element i + n (n rounded up to a Philox group). dropout: y =
// x / (1 - p) where the uniform of the element is at least p, else 0; the mask is never stored, and
// the backward pass is the same kernel on dy. The words are the CPU's. Source: Box & Muller 1958.
//
// Work: 16 elements a thread in four runs of 4 (philox.cuh), each moved as one access where all of
// it is inside and aligned (fresh tensors are). No shared memory. Bandwidth-bound but for normal.
#include <cmath>

#include "native/cuda/philox.cuh"

namespace fuselm::cuda {
namespace {

// y[at .. at + 4), what of it is inside n
template <class T>
__device__ __forceinline__ void StoreRun(T* y, int64_t at, int64_t n, const float (&values)[4]) {
  using Run = Pack<T, 4>;
  if (at + 4 <= n && reinterpret_cast<uintptr_t>(y) % sizeof(Run) == 0) {
    Run run;
#pragma unroll
    for (int j = 0; j < 4; ++j) run.v[j] = FromFloat<T>(values[j]);
    *reinterpret_cast<Run*>(y + at) = run;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (at + j < n) y[at + j] = FromFloat<T>(values[j]);
  }
}

__global__ void __launch_bounds__(kPhiloxThreads)
    UniformKernel(const uint32_t* key, float* y, int64_t n) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kPhiloxThreads + threadIdx.x;
  uint32_t words[4][4];
  PhiloxRuns(key, thread, words);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    float values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = PhiloxUniform(words[w][j]);
    StoreRun(y, PhiloxRun(thread, w), n, values);
  }
}

void Uniform(const Arguments& in) {
  const View &key = in[0], &y = in[1];
  Require(IsPhiloxKey(key), ErrorCode::kShape, "uniform: key must be u32 [4]");
  Require(y.contiguous() && y.dtype == DType::kF32, ErrorCode::kShape,
          "uniform: y must be contiguous, f32 on this device (bf16 would round up to 1)");
  const int64_t n = y.numel();
  if (n == 0) return;
  Launch(in, "uniform", PhiloxGrid(n), UniformKernel, key.as<uint32_t>(), y.as<float>(), n);
}
FUSELM_CUDA_KERNEL("uniform(key, y!)", kAnyDType & ~Mask(DType::kF64), Uniform);

template <class T>
__global__ void __launch_bounds__(kPhiloxThreads)
    NormalKernel(const uint32_t* key, T* y, int64_t n, float std_deviation) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kPhiloxThreads + threadIdx.x;
  const int64_t groups = (n + kPhiloxGroup - 1) / kPhiloxGroup;
  uint32_t radius[4][4], angle[4][4];
  PhiloxRuns(key, thread, radius);
  PhiloxRuns(key, thread + groups * (kPhiloxGroup / kPhiloxEach), angle);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    float values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float u = 1.0f - PhiloxUniform(radius[w][j]);  // (0, 1]: its logarithm is finite
      // the angle in half turns, 2 u: cospif needs no reduction of a product with pi
      values[j] =
          std_deviation * sqrtf(-2.0f * logf(u)) * cospif(2.0f * PhiloxUniform(angle[w][j]));
    }
    StoreRun(y, PhiloxRun(thread, w), n, values);
  }
}

void Normal(const Arguments& in) {
  const View &key = in[0], &y = in[1];
  Require(IsPhiloxKey(key), ErrorCode::kShape, "normal: key must be u32 [4]");
  Require(y.contiguous(), ErrorCode::kShape, "normal: y must be contiguous");
  const int64_t n = y.numel();
  if (n == 0) return;
  DispatchFloat(y.dtype, [&]<class T>() {
    Launch(in, "normal", PhiloxGrid(n), NormalKernel<T>, key.as<uint32_t>(), y.as<T>(), n,
           in.f64(0));
  });
}
FUSELM_CUDA_KERNEL("normal(key, y!) [std]", kFloat, Normal);

template <class T>
__global__ void __launch_bounds__(kPhiloxThreads)
    DropoutKernel(const T* x, const uint32_t* key, T* y, int64_t n, uint32_t least, float scale) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kPhiloxThreads + threadIdx.x;
  using Run = Pack<T, 4>;
  const bool aligned = reinterpret_cast<uintptr_t>(x) % sizeof(Run) == 0;
  uint32_t words[4][4];
  PhiloxRuns(key, thread, words);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int64_t at = PhiloxRun(thread, w);
    Run run;
    if (at + 4 <= n && aligned) {
      run = *reinterpret_cast<const Run*>(x + at);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) run.v[j] = at + j < n ? x[at + j] : FromFloat<T>(0.0f);
    }
    float values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      // a select, not a product: a dropped infinity is 0
      values[j] = words[w][j] >> 8 >= least ? ToFloat(run.v[j]) * scale : 0.0f;
    }
    StoreRun(y, at, n, values);
  }
}

void Dropout(const Arguments& in) {
  const View &x = in[0], &key = in[1], &y = in[2];
  Require(x.dtype == y.dtype && x.numel() == y.numel() && x.contiguous() && y.contiguous(),
          ErrorCode::kShape, "dropout: x and y must be contiguous and alike");
  Require(IsPhiloxKey(key), ErrorCode::kShape, "dropout: key must be u32 [4]");
  const float p = static_cast<float>(in.f64(0));
  Require(p >= 0 && p <= 1, ErrorCode::kValue, "dropout: p must be in [0, 1]");
  const int64_t n = x.numel();
  if (n == 0) return;
  const float scale = p < 1 ? 1.0f / (1.0f - p) : 0.0f;
  const auto least = static_cast<uint32_t>(std::ceil(p * 0x1p24f));  // exact: uniform >= p
  DispatchFloat(x.dtype, [&]<class T>() {
    Launch(in, "dropout", PhiloxGrid(n), DropoutKernel<T>, x.as<T>(), key.as<uint32_t>(), y.as<T>(),
           n, least, scale);
  });
}
FUSELM_CUDA_KERNEL("dropout(x, key) -> (y) [p]", kFloat, Dropout);

}  // namespace
}  // namespace fuselm::cuda
