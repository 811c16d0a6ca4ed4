// levels: generic avx2 avx512
// AdamW over all parameters in one command and one pass over memory: 28 bytes per parameter moved
// (f32 gradient, m and v read, m and v written, the weight read and written).
// Source: Loshchilov & Hutter 2019; the arithmetic of torch.optim.AdamW.
//
// A bf16 weight is the upper half of an exact f32 master, rounded to nearest; `low` is the rest:
//   high = (bits + 0x8000) >> 16, low = bits & 0xffff, bits = ((high - (low >> 15)) << 16) | low
#include <cmath>

#include "native/core/kernel.h"
#include "native/cpu/multi_tensor.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// Where a parameter's master weights lie: whole in the tensor (a bf16 one without `low` keeps only
// what bf16 can hold), or split over the weight and `low`.
template <class T>
struct Whole {
  T* p;
};
struct Split {
  uint16_t* high;
  uint16_t* low;
};

#if FUSELM_HAS_AVX512
inline Vec LoadMaster(const Split& s, int64_t i, int64_t left) {
  const __mmask16 head = HeadMask(left);
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(head, s.low + i));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(head, s.high + i));
  const __m512i top = _mm512_sub_epi32(high, _mm512_srli_epi32(low, 15));
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_slli_epi32(top, 16), low))};
}
inline void StoreMaster(const Split& s, int64_t i, Vec a, int64_t left) {
  const __mmask16 head = HeadMask(left);
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i high = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x8000)), 16);
  _mm256_mask_storeu_epi16(s.high + i, head, _mm512_cvtepi32_epi16(high));
  _mm256_mask_storeu_epi16(s.low + i, head, _mm512_cvtepi32_epi16(bits));
}
#elif FUSELM_IS_AVX2
inline __m256i LoadHalves(const uint16_t* p, int64_t left) {
  if (left >= kLanes) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  alignas(16) uint16_t part[8] = {};
  std::memcpy(part, p, static_cast<size_t>(left) * 2);
  return _mm256_cvtepu16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(part)));
}
inline void StoreHalves(uint16_t* p, __m256i a, int64_t left) {  // each lane below 2^16
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  if (left >= kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
    return;
  }
  alignas(16) uint16_t part[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(part), packed);
  std::memcpy(p, part, static_cast<size_t>(left) * 2);
}
inline Vec LoadMaster(const Split& s, int64_t i, int64_t left) {
  const __m256i low = LoadHalves(s.low + i, left);
  const __m256i top = _mm256_sub_epi32(LoadHalves(s.high + i, left), _mm256_srli_epi32(low, 15));
  return {_mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32(top, 16), low))};
}
inline void StoreMaster(const Split& s, int64_t i, Vec a, int64_t left) {
  const __m256i bits = _mm256_castps_si256(a.v);
  StoreHalves(s.high + i, _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x8000)), 16),
              left);
  StoreHalves(s.low + i, _mm256_and_si256(bits, _mm256_set1_epi32(0xffff)), left);
}
#else
inline Vec LoadMaster(const Split& s, int64_t i, int64_t left) {
  return MapLanes([&](int lane) {
    if (lane >= left) return 0.0f;
    const uint32_t low = s.low[i + lane], high = s.high[i + lane];
    return std::bit_cast<float>(((high - (low >> 15)) << 16) | low);
  });
}
inline void StoreMaster(const Split& s, int64_t i, Vec a, int64_t left) {
  for (int lane = 0; lane < kLanes && lane < left; ++lane) {
    const uint32_t bits = std::bit_cast<uint32_t>(a.v[lane]);
    s.high[i + lane] = static_cast<uint16_t>((bits + 0x8000u) >> 16);
    s.low[i + lane] = static_cast<uint16_t>(bits);
  }
}
#endif
template <class T>
inline Vec LoadMaster(const Whole<T>& w, int64_t i, int64_t left) {
  return LoadN(w.p + i, left);
}
template <class T>
inline void StoreMaster(const Whole<T>& w, int64_t i, Vec a, int64_t left) {
  StoreN(w.p + i, a, left);
}

// What is the same for every element of a tensor in this step.
struct Step {
  float grad_scale;  // the clip factor folded in
  float one_minus_beta1;
  float beta2, one_minus_beta2;
  float inverse_root;  // 1 / sqrt(1 - beta2^t)
  float eps;
  float step_size;  // learning rate / (1 - beta1^t)
  float keep;       // 1 - learning rate * weight decay
};

template <class Master>
void Update(const Step& step, Master master, const float* grad, float* m, float* v, int64_t n) {
  const Vec scale = Set(step.grad_scale), b1 = Set(step.one_minus_beta1), b2 = Set(step.beta2);
  const Vec c2 = Set(step.one_minus_beta2), root = Set(step.inverse_root), eps = Set(step.eps);
  const Vec size = Set(step.step_size), keep = Set(step.keep);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    const Vec g = LoadN(grad + i, left) * scale;
    const Vec m0 = LoadN(m + i, left);
    const Vec m1 = Fma(g - m0, b1, m0);
    const Vec v1 = Fma(g * g, c2, LoadN(v + i, left) * b2);
    const Vec update = m1 / Fma(Sqrt(v1), root, eps);
    const Vec p = Fnma(update, size, LoadMaster(master, i, left) * keep);
    StoreN(m + i, m1, left);
    StoreN(v + i, v1, left);
    StoreMaster(master, i, p, left);
  }
}

// Arguments before the group, and the group's own.
enum Argument { kNorm, kHyper, kDecay, kState, kGroup };
enum Member { kParam, kLow, kGrad, kM, kV, kMembers };

void CheckTensor(const Invocation& call, size_t base) {
  const View& param = call[base + kParam];
  Require(param.dtype == DType::kF32 || param.dtype == DType::kBF16, ErrorCode::kShape,
          "adam_w: param must be f32 or bf16");
  Require(!call.has(base + kLow) ||
              (param.dtype == DType::kBF16 && call[base + kLow].dtype == DType::kU16),
          ErrorCode::kShape, "adam_w: low must be u16, and only a bf16 param has it");
  for (size_t i = base; i < base + kMembers; ++i) {
    if (!call.has(i)) continue;
    Require(call[i].contiguous() && call[i].numel() == param.numel(), ErrorCode::kShape,
            "adam_w: low, grad, m and v must be contiguous and of param's size");
  }
  for (const size_t i : {base + kGrad, base + kM, base + kV}) {
    Require(call[i].dtype == DType::kF32, ErrorCode::kShape, "adam_w: grad, m and v must be f32");
  }
}

void AdamW(Invocation& call) {
  Require((call.size() - kGroup) % kMembers == 0, ErrorCode::kShape, "adam_w: incomplete group");
  const int64_t tensors = static_cast<int64_t>((call.size() - kGroup) / kMembers);
  const View &norm = call[kNorm], &hyper = call[kHyper], &decay = call[kDecay];
  Require(norm.dtype == DType::kF32 && norm.numel() == 1, ErrorCode::kShape,
          "adam_w: norm must be f32 of one element");
  Require(hyper.dtype == DType::kF32 && hyper.contiguous() && hyper.numel() == 2, ErrorCode::kShape,
          "adam_w: hyper must be f32 [2]");
  Require(decay.dtype == DType::kF32 && decay.contiguous() && decay.numel() == tensors,
          ErrorCode::kShape, "adam_w: decay must be f32, one per parameter");
  Require(
      call[kState].dtype == DType::kI32 && call[kState].contiguous() && call[kState].numel() == 2,
      ErrorCode::kShape, "adam_w: state must be i32 [2]");
  for (int64_t t = 0; t < tensors; ++t) CheckTensor(call, kGroup + t * kMembers);
  // allocates, so may throw: before anything is written
  const ChunkMap map(call, tensors,
                     [&](int64_t i) -> const View& { return call[kGroup + i * kMembers]; });

  const double learning_rate = hyper.as<float>()[0], scale = hyper.as<float>()[1];
  const double total = std::fabs(*norm.as<float>() * scale);
  int32_t* state = call[kState].as<int32_t>();  // steps taken, steps skipped
  if (!std::isfinite(total)) {
    ++state[1];
    return;
  }
  const int64_t t = ++state[0];
  const double beta1 = call.f64(0), beta2 = call.f64(1), clip = call.f64(3);
  Step step{};
  // clip 0 is none; 1e-6 as in torch.nn.utils.clip_grad_norm_
  step.grad_scale =
      static_cast<float>(clip > 0 && total + 1e-6 > clip ? scale * clip / (total + 1e-6) : scale);
  step.one_minus_beta1 = static_cast<float>(1 - beta1);
  step.beta2 = static_cast<float>(beta2);
  step.one_minus_beta2 = static_cast<float>(1 - beta2);
  step.inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t)));
  step.eps = static_cast<float>(call.f64(2));
  step.step_size = static_cast<float>(learning_rate / (1 - std::pow(beta1, t)));

  call.ParallelFor(map.chunks(), [&](int64_t tile, int) {
    const auto [tensor, begin, count] = map.Locate(tile);
    const size_t base = kGroup + tensor * kMembers;
    Step own = step;
    own.keep = static_cast<float>(1 - learning_rate * decay.as<float>()[tensor]);
    const float* grad = call[base + kGrad].as<float>() + begin;
    float* m = call[base + kM].as<float>() + begin;
    float* v = call[base + kV].as<float>() + begin;
    if (call.has(base + kLow)) {
      const Split split{call[base + kParam].as<uint16_t>() + begin,
                        call[base + kLow].as<uint16_t>() + begin};
      Update(own, split, grad, m, v, count);
    } else if (call[base + kParam].dtype == DType::kBF16) {
      Update(own, Whole<bf16>{call[base + kParam].as<bf16>() + begin}, grad, m, v, count);
    } else {
      Update(own, Whole<float>{call[base + kParam].as<float>() + begin}, grad, m, v, count);
    }
  });
}

FUSELM_KERNEL_TRANSACTIONAL(
    "adam_w(norm, hyper, decay, state!, ...(param!, low!?, grad, m!, v!)) "
    "[beta1, beta2, eps, clipNorm]",
    Mask(DType::kF32), AdamW);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
