// The element functions of MLPs with their derivatives, and the launchers made of them: y = f(x),
// and gated, y = f(gate) up. In float32; pointwise.cuh spreads the work. Bandwidth-bound.
#pragma once

#include <initializer_list>

#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {

struct Point {
  float value, slope;
};

__device__ __forceinline__ float SigmoidOf(float x) { return 1.0f / (1.0f + expf(-x)); }

// x sigmoid(x)
struct Silu {
  static __device__ __forceinline__ Point At(float x) {
    const float s = SigmoidOf(x), y = x * s;
    return {y, fmaf(y, 1.0f - s, s)};
  }
};

// x sigmoid(1.702 x)
struct GeluQuick {
  static __device__ __forceinline__ Point At(float x) {
    const float s = SigmoidOf(1.702f * x), y = x * s;
    return {y, fmaf(1.702f * y, 1.0f - s, s)};
  }
};

// x / 2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
struct GeluTanh {
  static __device__ __forceinline__ Point At(float x) {
    constexpr float kLinear = 1.59576912f, kCubic = 7.13548163e-2f;
    const float square = x * x;
    const float s = SigmoidOf(x * fmaf(square, kCubic, kLinear)), y = x * s;
    return {y, fmaf(y * fmaf(square, 3 * kCubic, kLinear), 1.0f - s, s)};
  }
};

// x Phi(x) with Phi the normal distribution. erfcf of the side whose tail is small keeps small
// results precise.
struct GeluErf {
  static __device__ __forceinline__ Point At(float x) {
    const float phi = 0.5f * erfcf(-0.707106781f * x);
    const float bell = 0.398942280f * expf(-0.5f * x * x);
    return {x * phi, fmaf(x, bell, phi)};
  }
};

struct Relu {
  static __device__ __forceinline__ Point At(float x) {
    return {x > 0 || x != x ? x : 0.0f, x > 0 ? 1.0f : 0.0f};
  }
};

struct ReluSquared {
  static __device__ __forceinline__ Point At(float x) {
    const float y = x > 0 || x != x ? x : 0.0f;
    return {y * y, y + y};
  }
};

template <class A>
struct Activation {
  __device__ float operator()(float x) const { return A::At(x).value; }
};
template <class A>
struct ActivationBackward {
  __device__ float operator()(float dy, float x) const { return dy * A::At(x).slope; }
};
template <class A>
struct Gated {
  __device__ float operator()(float gate, float up) const { return A::At(gate).value * up; }
};
template <class A>
struct GatedBackward {
  static constexpr int kOutputs = 2;
  __device__ Pack<float, 2> operator()(float dy, float gate, float up) const {
    const Point at = A::At(gate);
    return {{dy * up * at.slope, dy * at.value}};
  }
};

inline void RequireAlike(const char* op, const Arguments& in) {
  for (size_t i = 1; i < in.size(); ++i) {
    RequireSameShape(op, in[i], in[0]);
    RequireDType(op, in[i], in[0].dtype);
  }
}

// (x) -> (y)
template <class A>
void Activate(const char* op, const Arguments& in) {
  RequireAlike(op, in);
  DispatchFloat(in[0].dtype, [&]<class T>() {
    Pointwise<T, T>(in, op, Activation<A>{}, {&in[1], &in[0]});
  });
}
// (dy, x) -> (dx)
template <class A>
void ActivateBackward(const char* op, const Arguments& in) {
  RequireAlike(op, in);
  DispatchFloat(in[0].dtype, [&]<class T>() {
    Pointwise<T, T, T>(in, op, ActivationBackward<A>{}, {&in[2], &in[0], &in[1]});
  });
}
// (gate, up) -> (y)
template <class A>
void Gate(const char* op, const Arguments& in) {
  RequireAlike(op, in);
  DispatchFloat(in[0].dtype, [&]<class T>() {
    Pointwise<T, T, T>(in, op, Gated<A>{}, {&in[2], &in[0], &in[1]});
  });
}
// (dy, gate, up) -> (dgate, dup)
template <class A>
void GateBackward(const char* op, const Arguments& in) {
  RequireAlike(op, in);
  DispatchFloat(in[0].dtype, [&]<class T>() {
    Pointwise<T, T, T, T>(in, op, GatedBackward<A>{}, {&in[3], &in[4], &in[0], &in[1], &in[2]});
  });
}

// The variants of gelu by the attribute `approximate` of lib/ops/gelu.ts; f.operator()<A>().
template <class F>
void DispatchGelu(const char* op, int64_t approximate, F&& f) {
  switch (approximate) {
    case 0: return f.template operator()<GeluErf>();
    case 1: return f.template operator()<GeluTanh>();
    case 2: return f.template operator()<GeluQuick>();
    default: throw Error(ErrorCode::kValue, std::string(op) + ": approximate must be 0, 1 or 2");
  }
}

}  // namespace fuselm::cuda
