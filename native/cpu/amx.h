// The AMX tile instructions. With FUSELM_EMULATE_AMX they are a software model of tiles, palette
// and arithmetic, so that the kernels' logic runs and is tested on machines without AMX.
// Source: Intel SDM volume 2, TDPBF16PS, TDPBSSD, LDTILECFG, TILELOADD, TILESTORED.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "native/core/dtype.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace tmm {

inline constexpr int kTileRows = 16;
inline constexpr int kTileBytes = 64;  // per row

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

#if FUSELM_EMULATE_AMX

struct Model {
  TileConfig config;
  bool configured = false;
  alignas(64) uint8_t tile[8][kTileRows][kTileBytes];
};
inline Model& State() {
  static thread_local Model model;
  return model;
}
// The hardware raises #UD for a tile that the palette does not define.
inline Model& Checked(int tile) {
  Model& s = State();
  if (!s.configured || s.config.rows[tile] == 0 || s.config.bytes_per_row[tile] == 0) std::abort();
  return s;
}
inline void LoadConfig(const TileConfig& config) {
  Model& s = State();
  for (int t = 0; t < 8; ++t)
    if (config.palette != 1 || config.rows[t] > kTileRows || config.bytes_per_row[t] > kTileBytes)
      std::abort();
  s.config = config;
  s.configured = true;
  std::memset(s.tile, 0, sizeof s.tile);
}
inline void Release() { State().configured = false; }
template <int kTile>
inline void Clear() {
  std::memset(Checked(kTile).tile[kTile], 0, sizeof(Model::tile[kTile]));
}
template <int kTile>
inline void Load(const void* base, int64_t stride) {
  Model& s = Checked(kTile);
  std::memset(s.tile[kTile], 0, sizeof s.tile[kTile]);
  for (int r = 0; r < s.config.rows[kTile]; ++r)
    std::memcpy(s.tile[kTile][r], static_cast<const uint8_t*>(base) + r * stride,
                s.config.bytes_per_row[kTile]);
}
template <int kTile>
inline void Store(void* base, int64_t stride) {
  Model& s = Checked(kTile);
  for (int r = 0; r < s.config.rows[kTile]; ++r)
    std::memcpy(static_cast<uint8_t*>(base) + r * stride, s.tile[kTile][r],
                s.config.bytes_per_row[kTile]);
}
// Denormals are zero on the way in and on the way out.
inline float Flush(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f * x : x; }
// Even and odd elements of K are summed apart, by fused multiply-adds in float32, then joined.
template <int kC, int kA, int kB>
inline void DotBf16() {
  Checked(kA);
  Checked(kB);
  Model& s = Checked(kC);
  const int words = s.config.bytes_per_row[kA] / 4;
  const int cols = s.config.bytes_per_row[kC] / 4;
  if (s.config.rows[kC] != s.config.rows[kA] || s.config.rows[kB] != words ||
      s.config.bytes_per_row[kB] != s.config.bytes_per_row[kC])
    std::abort();
  for (int m = 0; m < s.config.rows[kC]; ++m) {
    float sum[2][16] = {};
    for (int k = 0; k < words; ++k) {
      bf16 a[2], b[32];
      std::memcpy(a, s.tile[kA][m] + 4 * k, sizeof a);
      std::memcpy(b, s.tile[kB][k], sizeof b);
      for (int odd = 0; odd < 2; ++odd) {
        const float x = Flush(a[odd]);
        for (int n = 0; n < 16; ++n)
          sum[odd][n] = Flush(std::fma(x, Flush(b[2 * n + odd]), sum[odd][n]));
      }
    }
    float c[16];
    std::memcpy(c, s.tile[kC][m], sizeof c);
    for (int n = 0; n < cols; ++n) c[n] = Flush(Flush(c[n]) + Flush(sum[0][n] + sum[1][n]));
    std::memcpy(s.tile[kC][m], c, sizeof c);
  }
}

// Signed bytes, four to a word of K, summed exactly in int32.
template <int kC, int kA, int kB>
inline void DotInt8() {
  Checked(kA);
  Checked(kB);
  Model& s = Checked(kC);
  const int words = s.config.bytes_per_row[kA] / 4;
  const int cols = s.config.bytes_per_row[kC] / 4;
  if (s.config.rows[kC] != s.config.rows[kA] || s.config.rows[kB] != words ||
      s.config.bytes_per_row[kB] != s.config.bytes_per_row[kC])
    std::abort();
  for (int m = 0; m < s.config.rows[kC]; ++m) {
    int32_t c[16];
    std::memcpy(c, s.tile[kC][m], sizeof c);
    for (int k = 0; k < words; ++k)
      for (int n = 0; n < cols; ++n)
        for (int byte = 0; byte < 4; ++byte)
          c[n] += static_cast<int8_t>(s.tile[kA][m][4 * k + byte]) *
                  static_cast<int8_t>(s.tile[kB][k][4 * n + byte]);
    std::memcpy(s.tile[kC][m], c, sizeof c);
  }
}

#else

inline void LoadConfig(const TileConfig& config) { _tile_loadconfig(&config); }
inline void Release() { _tile_release(); }
// The intrinsics are macros that paste their operands into assembly: literals only.
template <int kTile>
inline void Clear() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
inline void Load(const void* base, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void Store(void* base, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
}
template <int kC, int kA, int kB>
inline void DotBf16() {
  asm volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(kB), "i"(kA), "i"(kC));
}
template <int kC, int kA, int kB>
inline void DotInt8() {
  asm volatile("tdpbssd %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(kB), "i"(kA), "i"(kC));
}

#endif

// Eight tiles for the life of a tile job: 0 to 3 are C, 4 and 5 are A, 6 and 7 are B. All whole, or
// A and B with fewer words of K. Each job loads its own: work of another queue may have run on this
// thread, with another configuration, since the last one.
class Tiles {
 public:
  explicit Tiles(int words = kTileRows) {
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      const bool a = t == 4 || t == 5, b = t >= 6;
      config.bytes_per_row[t] = static_cast<uint16_t>(a ? 4 * words : kTileBytes);
      config.rows[t] = static_cast<uint8_t>(b ? words : kTileRows);
    }
    LoadConfig(config);
  }
  ~Tiles() { Release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace tmm
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
