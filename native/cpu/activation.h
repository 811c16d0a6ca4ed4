// The element functions of MLPs with their derivatives, and the kernels made of them: y = f(x), and
// gated, y = f(gate) up. Computed in float32 to the precision of T; bandwidth-bound for bf16 on
// AVX-512, bound by the exponential elsewhere.
#pragma once

#include <string>

#include "native/cpu/exp2.h"
#include "native/cpu/runs.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// 1 / a: for bf16 on AVX-512 with relative error 6e-5
template <class T>
inline Vec Reciprocal(Vec a) {
#if FUSELM_HAS_AVX512
  if constexpr (sizeof(T) == 2) return {_mm512_rcp14_ps(a.v)};
#endif
  return Set(1.0f) / a;
}

// 1 / (1 + e^-x): for bf16 with relative error 1.4e-4, a fourteenth of its rounding.
template <class T>
inline Vec SigmoidOf(Vec x) {
  if constexpr (sizeof(T) == 4) {
    return Sigmoid(x);
  } else {
    // beyond the bounds the exponential leaves float32; a NaN goes through as the second operand
    const Vec e = Exp2<3>(Min(Set(126.0f), Max(Set(-150.0f), x * Set(-1.44269504f))));
    return Reciprocal<T>(Set(1.0f) + e);
  }
}

struct Point {
  Vec value, slope;
};

// x sigmoid(x)
struct Silu {
  template <class T>
  static Vec Value(Vec x) {
    return x * SigmoidOf<T>(x);
  }
  template <class T>
  static Point At(Vec x) {
    const Vec s = SigmoidOf<T>(x), y = x * s;
    return {y, Fma(y, Set(1.0f) - s, s)};
  }
};

// x sigmoid(1.702 x)
struct GeluQuick {
  template <class T>
  static Vec Value(Vec x) {
    return x * SigmoidOf<T>(x * Set(1.702f));
  }
  template <class T>
  static Point At(Vec x) {
    const Vec s = SigmoidOf<T>(x * Set(1.702f)), y = x * s;
    return {y, Fma(y * Set(1.702f), Set(1.0f) - s, s)};
  }
};

// x / 2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
struct GeluTanh {
  static constexpr float kLinear = 1.59576912f, kCubic = 7.13548163e-2f;
  template <class T>
  static Vec Value(Vec x) {
    return x * SigmoidOf<T>(x * Fma(x * x, Set(kCubic), Set(kLinear)));
  }
  template <class T>
  static Point At(Vec x) {
    const Vec square = x * x;
    const Vec s = SigmoidOf<T>(x * Fma(square, Set(kCubic), Set(kLinear))), y = x * s;
    return {y, Fma(y * Fma(square, Set(3 * kCubic), Set(kLinear)), Set(1.0f) - s, s)};
  }
};

// x Phi(x) with Phi the normal distribution. Its tail is e^(-x^2 / 2) times a polynomial in
// 1 / (1 + p |x|), so that the density comes with it and small results keep their precision.
struct GeluErf {
  template <class T>
  static Point Distribution(Vec x) {  // Phi(x), and e^(-x^2 / 2)
    const Vec a = Abs(x);
    Vec bell, tail;
    if constexpr (sizeof(T) == 4) {
      bell = Exp(x * x * Set(-0.5f));
      const Vec t = Reciprocal<T>(Fma(a, Set(0.21f), Set(1.0f)));
      tail = t * Polynomial({8.370606471e-2f, 8.515485517e-2f, 6.862196070e-2f, 1.269720010e-1f,
                             -9.862256150e-2f, 3.559495033e-1f, -3.358145047e-1f, 2.862222999e-1f,
                             -7.218961951e-2f},
                            t);
    } else {
      bell = Exp2<3>(Max(Set(-150.0f), x * x * Set(-0.721347520f)));
      const Vec t = Reciprocal<T>(Fma(a, Set(0.38f), Set(1.0f)));
      tail = t * Polynomial({1.512251161e-1f, 1.578296852e-1f, 9.197908047e-2f, 1.888772763e-1f,
                             -8.992868668e-2f},
                            t);
    }
    tail = tail * bell;
    return {SelectPositive(x, Set(1.0f) - tail, tail), bell};
  }
  template <class T>
  static Vec Value(Vec x) {
    return x * Distribution<T>(x).value;
  }
  template <class T>
  static Point At(Vec x) {
    const auto [phi, bell] = Distribution<T>(x);
    return {x * phi, Fma(x * Set(0.398942280f), bell, phi)};
  }
};

struct Relu {
  template <class T>
  static Vec Value(Vec x) {
    return Max(Zero(), x);
  }
  template <class T>
  static Point At(Vec x) {
    return {Value<T>(x), SelectPositive(x, Set(1.0f), Zero())};
  }
};

struct ReluSquared {
  template <class T>
  static Vec Value(Vec x) {
    const Vec y = Max(Zero(), x);
    return y * y;
  }
  template <class T>
  static Point At(Vec x) {
    const Vec y = Max(Zero(), x);
    return {y * y, y + y};
  }
};

inline void RequireAlike(const char* op, std::initializer_list<const View*> views) {
  for (const View* v : views)
    if (!LikeRows(**views.begin(), *v))
      throw Error(
          ErrorCode::kShape,
          std::string(op) + ": all tensors must be alike, with unit stride in the last axis");
}

// f(i, left) for each vector of a run; `left` is a constant but for the last one, so that LoadN and
// StoreN cost no mask in the loop.
template <class F>
inline void ForVectors(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, static_cast<int64_t>(kLanes));
  if (i < n) f(i, n - i);
}

// (x) -> (y)
template <class A>
void Activate(const char* op, Invocation& call) {
  const View &x = call[0], &y = call[1];
  RequireAlike(op, {&x, &y});
  DispatchFloat(x.dtype, [&]<class T>() {
    ForRuns(call, {&x, &y}, [&](int64_t row, int64_t column, int64_t n) {
      const T* in = x.row<T>(row) + column;
      T* out = y.row<T>(row) + column;
      ForVectors(n, [&](int64_t i, int64_t left) {
        StoreN(out + i, A::template Value<T>(LoadN(in + i, left)), left);
      });
    });
  });
}

// (dy, x) -> (dx)
template <class A>
void ActivateBackward(const char* op, Invocation& call) {
  const View &dy = call[0], &x = call[1], &dx = call[2];
  RequireAlike(op, {&dy, &x, &dx});
  DispatchFloat(x.dtype, [&]<class T>() {
    ForRuns(call, {&dy, &x, &dx}, [&](int64_t row, int64_t column, int64_t n) {
      const T *d = dy.row<T>(row) + column, *in = x.row<T>(row) + column;
      T* out = dx.row<T>(row) + column;
      ForVectors(n, [&](int64_t i, int64_t left) {
        const Vec slope = A::template At<T>(LoadN(in + i, left)).slope;
        StoreN(out + i, LoadN(d + i, left) * slope, left);
      });
    });
  });
}

// (gate, up) -> (y)
template <class A>
void Gate(const char* op, Invocation& call) {
  const View &gate = call[0], &up = call[1], &y = call[2];
  RequireAlike(op, {&gate, &up, &y});
  DispatchFloat(gate.dtype, [&]<class T>() {
    ForRuns(call, {&gate, &up, &y}, [&](int64_t row, int64_t column, int64_t n) {
      const T *g = gate.row<T>(row) + column, *u = up.row<T>(row) + column;
      T* out = y.row<T>(row) + column;
      ForVectors(n, [&](int64_t i, int64_t left) {
        StoreN(out + i, A::template Value<T>(LoadN(g + i, left)) * LoadN(u + i, left), left);
      });
    });
  });
}

// (dy, gate, up) -> (dgate, dup)
template <class A>
void GateBackward(const char* op, Invocation& call) {
  const View &dy = call[0], &gate = call[1], &up = call[2], &dgate = call[3], &dup = call[4];
  RequireAlike(op, {&dy, &gate, &up, &dgate, &dup});
  DispatchFloat(dy.dtype, [&]<class T>() {
    ForRuns(call, {&dy, &gate, &up, &dgate, &dup}, [&](int64_t row, int64_t column, int64_t n) {
      const T* d = dy.row<T>(row) + column;
      const T *g = gate.row<T>(row) + column, *u = up.row<T>(row) + column;
      T *dg = dgate.row<T>(row) + column, *du = dup.row<T>(row) + column;
      ForVectors(n, [&](int64_t i, int64_t left) {
        const Vec grad = LoadN(d + i, left);
        const auto [value, slope] = A::template At<T>(LoadN(g + i, left));
        StoreN(du + i, grad * value, left);
        StoreN(dg + i, grad * LoadN(u + i, left) * slope, left);
      });
    });
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

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
