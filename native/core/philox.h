// Philox4x32-10: random words that are a pure function of (key, element index), so the same on any
// number of threads and on any device. This is what all devices must agree about.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
//
// A key is four words: seed low, seed high, step, call. Philox takes the seed as its key and
// (block low, block high, step, call) as its counter. A block gives four words; 16 blocks serve a
// group of 64 elements so that a vector of lanes stores contiguous words: element i has
//   block (i / 64) * 16 + i % 16, word (i / 16) % 4.
#pragma once

#include <cstdint>

namespace fuselm {

inline constexpr int kPhiloxGroup = 64;
inline constexpr int kPhiloxRounds = 10;
// Counter words 0 and 2 are multiplied by these,
inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier2 = 0xCD9E8D57u;
// and the key words grow by these, each round.
inline constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;

}  // namespace fuselm
