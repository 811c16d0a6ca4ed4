// AdamW over all parameters in one launch and one pass over memory: 28 bytes per parameter moved.
// The arithmetic, and the split of a bf16 weight's float32 master into the weight and `low`, are
// native/cpu/adam_w.cc's.
//
// Work: one thread first reads norm, hyper and state, counts the step and writes the step's numbers
// (a norm that is not finite counts a skipped step, and the update then writes nothing). Then a
// block a chunk of 8,192 elements, a thread 4 of them at a time: 16-byte accesses, 8-byte ones to
// what is 16 bits wide, two groups in flight; a tensor that is not 16-byte aligned goes by single
// elements. Shared memory: 8 bytes. Everything is checked and
// allocated before the first launch. The target is copy bandwidth.
#include <cmath>

#include "native/cuda/multi_tensor.cuh"
#include "native/cuda/rows.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;

// Where the master weights lie.
enum Master : int32_t { kFloat32, kBf16, kSplit };

struct Parameter {
  void* param;
  uint16_t* low;
  const float* grad;
  float *m, *v;
  int64_t count, first;
  int32_t master, aligned;
};

// What is the same for every element of this step.
struct Step {
  float grad_scale;  // the clip factor folded in
  float one_minus_beta1;
  float beta2, one_minus_beta2;
  float inverse_root;  // 1 / sqrt(1 - beta2^t)
  float eps;
  float step_size;  // learning rate / (1 - beta1^t)
  int32_t skip;
};
struct Betas {
  double beta1, beta2, eps, clip;
};

__global__ void Prepare(const float* norm, const float* hyper, int32_t* state, const Betas betas,
                        Step* out) {
  if (threadIdx.x != 0) return;
  const double learning_rate = hyper[0], scale = hyper[1];
  const double total = fabs(static_cast<double>(*norm) * scale);
  Step step{};
  if (!isfinite(total)) {
    step.skip = 1;
    ++state[1];
  } else {
    const double t = ++state[0];
    // clip 0 is none; 1e-6 as in torch.nn.utils.clip_grad_norm_
    step.grad_scale = static_cast<float>(
        betas.clip > 0 && total + 1e-6 > betas.clip ? scale * betas.clip / (total + 1e-6) : scale);
    step.one_minus_beta1 = static_cast<float>(1 - betas.beta1);
    step.beta2 = static_cast<float>(betas.beta2);
    step.one_minus_beta2 = static_cast<float>(1 - betas.beta2);
    step.inverse_root = static_cast<float>(1 / sqrt(1 - pow(betas.beta2, t)));
    step.eps = static_cast<float>(betas.eps);
    step.step_size = static_cast<float>(learning_rate / (1 - pow(betas.beta1, t)));
  }
  *out = step;
}

// kCount elements from `at` on: 4 aligned ones or a single one.
template <int kCount>
__device__ __forceinline__ void LoadMaster(const Parameter& p, int64_t at, float (&w)[kCount]) {
  if (p.master == kFloat32) {
    const auto a = *reinterpret_cast<const Pack<float, kCount>*>(static_cast<float*>(p.param) + at);
#pragma unroll
    for (int k = 0; k < kCount; ++k) w[k] = a.v[k];
    return;
  }
  using Halves = Pack<uint16_t, kCount>;
  const auto high = *reinterpret_cast<const Halves*>(static_cast<uint16_t*>(p.param) + at);
  Halves low{};
  if (p.master == kSplit) low = *reinterpret_cast<const Halves*>(p.low + at);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const uint32_t top = static_cast<uint32_t>(high.v[k]) - (low.v[k] >> 15);
    w[k] = __uint_as_float(top << 16 | low.v[k]);
  }
}
template <int kCount>
__device__ __forceinline__ void StoreMaster(const Parameter& p, int64_t at,
                                            const float (&w)[kCount]) {
  if (p.master == kFloat32) {
    Pack<float, kCount> a;
#pragma unroll
    for (int k = 0; k < kCount; ++k) a.v[k] = w[k];
    *reinterpret_cast<Pack<float, kCount>*>(static_cast<float*>(p.param) + at) = a;
    return;
  }
  using Halves = Pack<uint16_t, kCount>;
  Halves high, low;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const uint32_t bits = __float_as_uint(w[k]);
    high.v[k] =
        p.master == kSplit ? static_cast<uint16_t>((bits + 0x8000u) >> 16) : ToBf16(w[k]).bits;
    low.v[k] = static_cast<uint16_t>(bits);
  }
  *reinterpret_cast<Halves*>(static_cast<uint16_t*>(p.param) + at) = high;
  if (p.master == kSplit) *reinterpret_cast<Halves*>(p.low + at) = low;
}

template <int kCount>
struct Elements {
  Pack<float, kCount> g, m, v;
  float w[kCount];

  __device__ __forceinline__ void Load(const Parameter& p, int64_t at) {
    g = *reinterpret_cast<const Pack<float, kCount>*>(p.grad + at);
    m = *reinterpret_cast<const Pack<float, kCount>*>(p.m + at);
    v = *reinterpret_cast<const Pack<float, kCount>*>(p.v + at);
    LoadMaster(p, at, w);
  }
  __device__ __forceinline__ void Update(const Step& step, float keep) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const float grad = g.v[k] * step.grad_scale;
      m.v[k] = (grad - m.v[k]) * step.one_minus_beta1 + m.v[k];
      v.v[k] = grad * grad * step.one_minus_beta2 + v.v[k] * step.beta2;
      const float update = m.v[k] / (sqrtf(v.v[k]) * step.inverse_root + step.eps);
      w[k] = w[k] * keep - update * step.step_size;
    }
  }
  __device__ __forceinline__ void Store(const Parameter& p, int64_t at) const {
    *reinterpret_cast<Pack<float, kCount>*>(p.m + at) = m;
    *reinterpret_cast<Pack<float, kCount>*>(p.v + at) = v;
    StoreMaster(p, at, w);
  }
};

__global__ void __launch_bounds__(kThreads, 4)
    UpdateChunks(const ChunkTable<Parameter> table, const Step* prepared, const float* hyper,
                 const float* decay) {
  const Step step = *prepared;
  if (step.skip) return;
  const int64_t tensor = table.Find(blockIdx.x);
  const Parameter p = table.entries[tensor];
  const float keep =
      static_cast<float>(1 - static_cast<double>(hyper[0]) * static_cast<double>(decay[tensor]));
  const int64_t begin = (blockIdx.x - p.first) * kChunk;
  const int64_t end = begin + kChunk < p.count ? begin + kChunk : p.count;
  int64_t done = begin;
  if (p.aligned) {
    done = begin + (end - begin) / 4 * 4;
    int64_t at = begin + 4 * static_cast<int64_t>(threadIdx.x);
    constexpr int64_t kStride = 4 * kThreads;
    for (; at + kStride < done; at += 2 * kStride) {
      Elements<4> a, b;
      a.Load(p, at);
      b.Load(p, at + kStride);
      a.Update(step, keep);
      b.Update(step, keep);
      a.Store(p, at);
      b.Store(p, at + kStride);
    }
    if (at < done) {
      Elements<4> a;
      a.Load(p, at);
      a.Update(step, keep);
      a.Store(p, at);
    }
  }
  for (int64_t at = done + threadIdx.x; at < end; at += kThreads) {
    Elements<1> a;
    a.Load(p, at);
    a.Update(step, keep);
    a.Store(p, at);
  }
}

// Arguments before the group, and the group's own.
enum Argument { kNorm, kHyper, kDecay, kState, kGroup };
enum Member { kParam, kLow, kGrad, kM, kV, kMembers };

Parameter CheckTensor(const Arguments& in, size_t base) {
  const View& param = in[base + kParam];
  Require(param.dtype == DType::kF32 || param.dtype == DType::kBF16, ErrorCode::kShape,
          "adam_w: param must be f32 or bf16");
  Require(
      !in.has(base + kLow) || (param.dtype == DType::kBF16 && in[base + kLow].dtype == DType::kU16),
      ErrorCode::kShape, "adam_w: low must be u16, and only a bf16 param has it");
  bool aligned = true;
  for (size_t i = base; i < base + kMembers; ++i) {
    if (!in.has(i)) continue;
    Require(in[i].contiguous() && in[i].numel() == param.numel(), ErrorCode::kShape,
            "adam_w: low, grad, m and v must be contiguous and of param's size");
    aligned = aligned && Aligned16(in[i].data);
  }
  for (const size_t i : {base + kGrad, base + kM, base + kV}) {
    Require(in[i].dtype == DType::kF32, ErrorCode::kShape, "adam_w: grad, m and v must be f32");
  }
  Parameter p{};
  p.param = param.data;
  p.low = in[base + kLow].as<uint16_t>();
  p.grad = in[base + kGrad].as<float>();
  p.m = in[base + kM].as<float>();
  p.v = in[base + kV].as<float>();
  p.count = param.numel();
  p.master = param.dtype == DType::kF32 ? kFloat32 : in.has(base + kLow) ? kSplit : kBf16;
  p.aligned = aligned;
  return p;
}

void AdamW(const Arguments& in) {
  Require((in.size() - kGroup) % kMembers == 0, ErrorCode::kShape, "adam_w: incomplete group");
  const int64_t tensors = static_cast<int64_t>((in.size() - kGroup) / kMembers);
  const View &norm = in[kNorm], &hyper = in[kHyper], &decay = in[kDecay], &state = in[kState];
  Require(norm.dtype == DType::kF32 && norm.numel() == 1, ErrorCode::kShape,
          "adam_w: norm must be f32 of one element");
  Require(hyper.dtype == DType::kF32 && hyper.contiguous() && hyper.numel() == 2, ErrorCode::kShape,
          "adam_w: hyper must be f32 [2]");
  Require(decay.dtype == DType::kF32 && decay.contiguous() && decay.numel() == tensors,
          ErrorCode::kShape, "adam_w: decay must be f32, one per parameter");
  Require(state.dtype == DType::kI32 && state.contiguous() && state.numel() == 2, ErrorCode::kShape,
          "adam_w: state must be i32 [2]");
  std::vector<Parameter> entries;
  for (int64_t t = 0; t < tensors; ++t) {
    entries.push_back(CheckTensor(in, kGroup + static_cast<size_t>(t) * kMembers));
  }
  const int64_t chunks = CutIntoChunks(entries, kChunk);
  auto* const room = in.Workspace<Parameter>(static_cast<int64_t>(entries.size()));
  auto* const step = in.Workspace<Step>(1);
  const auto table = UploadTable(in, "adam_w", entries, room);
  Launch(in, "adam_w", {dim3(1), kWarp}, Prepare, norm.as<float>(), hyper.as<float>(),
         state.as<int32_t>(), Betas{in.f64(0), in.f64(1), in.f64(2), in.f64(3)}, step);
  if (chunks == 0) return;
  Launch(in, "adam_w", {dim3(static_cast<unsigned>(chunks)), kThreads}, UpdateChunks, table, step,
         hyper.as<float>(), decay.as<float>());
}

FUSELM_CUDA_KERNEL_TRANSACTIONAL(
    "adam_w(norm, hyper, decay, state!, ...(param!, low!?, grad, m!, v!)) "
    "[beta1, beta2, eps, clipNorm]",
    Mask(DType::kF32), AdamW);

}  // namespace
}  // namespace fuselm::cuda
