// Element types and the one place that turns a runtime dtype into a C++ type.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "native/core/error.h"

namespace fuselm {

// The codes are part of the command format (lib/tensor/dtype.ts holds the same table).
enum class DType : uint8_t {
  kF32 = 1,
  kBF16 = 2,
  kF64 = 3,
  kI32 = 4,
  kU32 = 5,
  kI8 = 6,
  kU8 = 7,
  kU16 = 8,
};
inline constexpr uint32_t kDTypeCount = 9;  // one past the last code

constexpr uint32_t Mask(DType d) { return 1u << static_cast<uint32_t>(d); }
inline constexpr uint32_t kFloat = Mask(DType::kF32) | Mask(DType::kBF16);
inline constexpr uint32_t kFloat64 = kFloat | Mask(DType::kF64);
inline constexpr uint32_t kAnyDType = (1u << kDTypeCount) - 2;

struct bf16 {
  uint16_t bits;

  bf16() = default;
  // Round to nearest even; a NaN stays a (quiet) NaN.
  explicit bf16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    bits = (u & 0x7fffffffu) > 0x7f800000u
               ? static_cast<uint16_t>((u >> 16) | 0x40u)
               : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  // By way of float: the double rounding is below every tolerance we state.
  explicit bf16(double d) : bf16(static_cast<float>(d)) {}
  operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

constexpr size_t ItemSize(DType d) {
  switch (d) {
    case DType::kF64: return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32: return 4;
    case DType::kBF16:
    case DType::kU16: return 2;
    case DType::kI8:
    case DType::kU8: return 1;
  }
  return 0;
}

const char* DTypeName(DType d);
[[noreturn]] void ThrowNotFloat(DType d);

// Calls f.template operator()<T>() with T = float or bf16.
template <class F>
decltype(auto) DispatchFloat(DType d, F&& f) {
  if (d == DType::kF32) return f.template operator()<float>();
  if (d == DType::kBF16) return f.template operator()<bf16>();
  ThrowNotFloat(d);
}

// As DispatchFloat, with T = double too.
template <class F>
decltype(auto) DispatchFloat64(DType d, F&& f) {
  if (d == DType::kF64) return f.template operator()<double>();
  return DispatchFloat(d, std::forward<F>(f));
}

}  // namespace fuselm
