// Sine and cosine over the whole range of float. The toolkit's sinf keeps a table in local memory
// for large arguments, which this build refuses; the bits of 2 / pi stand in constant memory here.
#pragma once

#include "native/cuda/device.cuh"

namespace fuselm::cuda {

// 2 / pi, binary digits after the point.
__constant__ uint32_t kTwoOverPi[] = {0xA2F9836Eu, 0x4E441529u, 0xFC2757D1u, 0xF534DDC0u,
                                      0xDB629599u, 0x3C439041u, 0xFE5163ABu};

// x = quadrant pi / 2 + r with |r| <= pi / 4, quadrant mod 4.
struct Reduced {
  float r;
  int quadrant;
};

// x 2 / pi modulo 4 for 2^13 <= |x| < 2^128: x = significand 2^(exponent - 23) times the 96 bits of
// 2 / pi that decide about it. Bits before those give multiples of 4; those after change the
// fraction by less than 2^-70. Source: Payne & Hanek 1983.
__device__ __forceinline__ Reduced ReduceLarge(float x) {
  const uint32_t bits = __float_as_uint(x);
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127;
  const uint64_t significand = (bits & 0x7fffffu) | 0x800000u;
  const int skip = exponent < 25 ? 0 : exponent - 25;
  const int word = skip / 32, shift = skip % 32;
  uint32_t part[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const uint32_t high = kTwoOverPi[word + i], low = kTwoOverPi[word + i + 1];
    part[i] = shift == 0 ? high : high << shift | low >> (32 - shift);
  }
  // The product of 120 bits in (top, low); `point` bits of top stand after the binary point.
  const uint64_t p2 = significand * part[2], p1 = significand * part[1] + (p2 >> 32);
  const uint64_t top = significand * part[0] + (p1 >> 32);
  const uint64_t low = p1 << 32 | (p2 & 0xffffffffu);
  const int point = 32 - (exponent - 23 - skip);
  const uint64_t fraction = top << (64 - point) | low >> point;
  // to the nearest quadrant: the fraction as a signed number
  const int quadrant = static_cast<int>(top >> point & 3) + static_cast<int>(fraction >> 63);
  const double turn = static_cast<double>(static_cast<int64_t>(fraction)) * 0x1p-64;
  const float r = static_cast<float>(turn * 1.5707963267948966);
  const bool negative = bits >> 31;
  return {negative ? -r : r, negative ? -quadrant : quadrant};
}

__device__ __forceinline__ Reduced ReduceToQuadrant(float x) {
  if (fabsf(x) <= 8192.0f) {
    // pi / 2 in three parts whose products with n are exact (Cody & Waite 1980)
    const float n = rintf(x * 0.636619772f);
    float r = fmaf(n, -1.5703125f, x);
    r = fmaf(n, -4.83751296997e-4f, r);
    r = fmaf(n, -7.54978995489e-8f, r);
    return {r, static_cast<int>(n)};
  }
  if (!isfinite(x)) return {x - x, 0};
  return ReduceLarge(x);
}

// sin(x + turns pi / 2)
__device__ __forceinline__ float SinTurned(float x, int turns) {
  const Reduced at = ReduceToQuadrant(x);
  const int quadrant = at.quadrant + turns;
  const float r = at.r, z = r * r;
  float s = fmaf(-1.951697632e-4f, z, 8.332176134e-3f);
  s = fmaf(s, z, -1.666665524e-1f);
  s = fmaf(s * z, r, r);
  float c = fmaf(2.443808989e-5f, z, -1.388736418e-3f);
  c = fmaf(c, z, 4.166664556e-2f);
  c = fmaf(c * z, z, fmaf(-0.5f, z, 1.0f));
  const float value = quadrant & 1 ? c : s;
  return quadrant & 2 ? -value : value;
}

}  // namespace fuselm::cuda
