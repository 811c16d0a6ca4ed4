// What this machine can do at an instruction level, all workers at once, as one JSON object: what
// the benches (bench/limits.ts) state shares of.  usage: fuselm_limits <level> <threads>
//
// Arithmetic is measured in registers. Memory: over 256 MiB, far beyond the caches; a copy counts
// what it reads and what it writes.
#include <cstdint>

#include "native/bench/peak.h"
#include "native/core/runtime.h"

namespace fuselm::bench {
namespace {

constexpr int64_t kBytes = int64_t{256} << 20, kChunk = int64_t{1} << 20;

// Best of a few rounds, in GB/s; `moved` bytes per round.
double Bandwidth(ThreadRunner& runner, int64_t moved, void (*touch)(std::byte*, std::byte*),
                 std::byte* from, std::byte* to) {
  struct Work {
    void (*touch)(std::byte*, std::byte*);
    std::byte *from, *to;
  } work{touch, from, to};
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const double start = Now();
    runner.Run(
        kBytes / kChunk,
        [](void* closure, int64_t tile, int) {
          const auto* w = static_cast<Work*>(closure);
          w->touch(w->from + tile * kChunk, w->to + tile * kChunk);
        },
        &work);
    best = std::max(best, static_cast<double>(moved) / (Now() - start) * 1e-9);
  }
  return best;
}

void Read(std::byte* from, std::byte*) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  const auto* words = reinterpret_cast<const uint64_t*>(from);
  for (int64_t i = 0; i < kChunk / 8; i += 4)
    a += words[i], b += words[i + 1], c += words[i + 2], d += words[i + 3];
  a += b + c + d;
  asm volatile("" ::"r"(a));
}
void Copy(std::byte* from, std::byte* to) { std::memcpy(to, from, kChunk); }
// Stores that need not read the line first.
void CopyAround(std::byte* from, std::byte* to) {
  for (int64_t i = 0; i < kChunk; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
  _mm_sfence();
}
void Write(std::byte*, std::byte* to) {
  for (int64_t i = 0; i < kChunk; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_setzero_si128());
  _mm_sfence();
}

int Run(const std::string& name, int threads) {
  Level level = Level::kGeneric;
  while (level < MachineLevel() && name != LevelName(level))
    level = static_cast<Level>(static_cast<int>(level) + 1);
  if (name != LevelName(level) || threads < 1) {
    std::fprintf(stderr, "usage: fuselm_limits <level> <threads>; this machine: %s\n",
                 LevelName(MachineLevel()));
    return 2;
  }
  ThreadRunner runner(threads);
  const Block from = Allocate(kBytes), to = Allocate(kBytes);
  std::memset(from.get(), 1, kBytes);
  std::memset(to.get(), 1, kBytes);
  const double read = Bandwidth(runner, kBytes, Read, from.get(), to.get());
  const double copy = std::max(Bandwidth(runner, 2 * kBytes, Copy, from.get(), to.get()),
                               Bandwidth(runner, 2 * kBytes, CopyAround, from.get(), to.get()));
  const double write = Bandwidth(runner, kBytes, Write, from.get(), to.get());
  std::printf(
      "{\"level\": \"%s\", \"threads\": %d, \"f32Gflops\": %.1f, \"bf16Gflops\": %.1f, "
      "\"int8Gops\": %.1f, \"readGBs\": %.2f, \"copyGBs\": %.2f, \"writeGBs\": %.2f}\n",
      LevelName(level), threads, PeakGflops(runner, level, Arithmetic::kF32),
      PeakGflops(runner, level, Arithmetic::kBf16), PeakGflops(runner, level, Arithmetic::kInt8),
      read, copy, write);
  return 0;
}

}  // namespace
}  // namespace fuselm::bench

int main(int argc, char** argv) {
  if (argc != 3) return fuselm::bench::Run("", 0);
  return fuselm::bench::Run(argv[1], std::atoi(argv[2]));
}
