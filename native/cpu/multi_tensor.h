// One command over many tensors: cuts each into chunks of a fixed size, one tile per chunk, so the
// division depends on shapes only.
#pragma once

#include <cstdint>

#include "native/core/kernel.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct ChunkMap {
  static constexpr int64_t kChunk =
      32768;  // elements; a fraction of a millisecond of memory traffic

  struct Chunk {
    int64_t tensor, begin, count;
  };

  // `argument(t)` is the view whose elements tensor t counts.
  template <class F>
  ChunkMap(Invocation& call, int64_t tensors, F&& argument)
      : tensors_(tensors), first_(call.Workspace<int64_t>(static_cast<size_t>(2 * tensors + 1))) {
    sizes_ = first_ + tensors + 1;
    int64_t chunks = 0;
    for (int64_t t = 0; t < tensors; ++t) {
      first_[t] = chunks;
      sizes_[t] = argument(t).numel();
      chunks += (sizes_[t] + kChunk - 1) / kChunk;
    }
    first_[tensors] = chunks;
  }

  int64_t chunks() const { return first_[tensors_]; }

  Chunk Locate(int64_t tile) const {
    int64_t low = 0, high = tensors_;  // the last tensor with first_ <= tile: never an empty one
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (first_[middle] <= tile ? low : high) = middle;
    }
    const int64_t begin = (tile - first_[low]) * kChunk;
    const int64_t rest = sizes_[low] - begin;
    return {low, begin, rest < kChunk ? rest : kChunk};
  }

 private:
  int64_t tensors_;
  int64_t* first_;  // the first chunk of each tensor, then their total
  int64_t* sizes_;
};

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
