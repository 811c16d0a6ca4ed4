// Upload: a launch of one block for each 3,840 bytes, a thread a word. No shared memory.
#include "native/cuda/upload.cuh"

#include <algorithm>
#include <cstring>

namespace fuselm::cuda {
namespace {

constexpr int kWords = 480;  // kernel parameters are 4 KB on every driver

struct Words {
  uint64_t word[kWords];
};

__global__ void __launch_bounds__(kWords)
    WriteWords(const __grid_constant__ Words words, uint64_t* to, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) to[i] = words.word[i];
}

}  // namespace

void Upload(const Arguments& in, const char* what, void* to, const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += int64_t{8} * kWords) {
    const int64_t part = std::min(bytes - at, int64_t{8} * kWords);
    Words words{};
    std::memcpy(words.word, static_cast<const std::byte*>(from) + at, static_cast<size_t>(part));
    Launch(in, what, {dim3(1), kWords}, WriteWords, words,
           reinterpret_cast<uint64_t*>(static_cast<std::byte*>(to) + at),
           static_cast<int>(part / 8));
  }
}

}  // namespace fuselm::cuda
