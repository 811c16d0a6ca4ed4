// One launch over many tensors: each is cut into chunks of a fixed size, a block a chunk, so the
// division depends on shapes only. The table of tensors goes to the workspace by Upload.
#pragma once

#include <vector>

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"
#include "native/cuda/upload.cuh"

namespace fuselm::cuda {

// An Entry is what a kernel needs of one tensor; it has `int64_t count, first`: its elements, and
// the index of its first chunk. On the device, `entries` ends with one more whose `first` is the
// number of chunks.
template <class Entry>
struct ChunkTable {
  const Entry* entries;
  int64_t tensors;

  // The tensor of this block's chunk; the block has at least 32 threads, all of which call it.
  __device__ __forceinline__ int64_t Find(int64_t chunk) const {
    __shared__ int64_t found;
    for (int64_t t = threadIdx.x; t < tensors; t += blockDim.x) {
      // never an empty tensor: its first is its successor's
      if (entries[t].first <= chunk && chunk < entries[t + 1].first) found = t;
    }
    __syncthreads();
    return found;
  }
};

// Sets `first` of every entry, appends the end, and returns the number of chunks.
template <class Entry>
int64_t CutIntoChunks(std::vector<Entry>& entries, int64_t chunk) {
  int64_t chunks = 0;
  for (Entry& entry : entries) {
    entry.first = chunks;
    chunks += CeilDiv(entry.count, chunk);
  }
  Entry end{};
  end.first = chunks;
  entries.push_back(end);
  return chunks;
}

template <class Entry>
ChunkTable<Entry> UploadTable(const Arguments& in, const char* what,
                              const std::vector<Entry>& entries, Entry* to) {
  static_assert(sizeof(Entry) % 8 == 0);
  Upload(in, what, to, entries.data(), static_cast<int64_t>(entries.size() * sizeof(Entry)));
  return {to, static_cast<int64_t>(entries.size()) - 1};
}

}  // namespace fuselm::cuda
