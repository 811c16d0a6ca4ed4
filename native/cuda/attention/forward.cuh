// Forward attention kernels, launched for attention and cached_attention.
#pragma once

#include "native/cuda/attention/problem.cuh"

namespace fuselm::cuda::attention {

struct Forward {
  Problem problem;
  Heads q, k, v, out;
  float* lse;  // [B, H, T], natural logarithm; or null
  // Rows of a block are queries of one head; packed, queries of all heads of a key head, head
  // first: row r is query r / per of head kv * per + r % per.
  int32_t per;
  int32_t rows;       // T * per
  int32_t head_sets;  // H / per
  int32_t tiles;      // blocks of rows
  // Keys are cut into `splits` segments of `segment` positions, each with a result of its own:
  // partial [B * head_sets * splits, rows, D], stats [B * head_sets * splits, rows] (maximum in
  // base 2, sum). Null partial: one segment, and out is written.
  int32_t splits, segment;
  float* partial;
  float2* stats;
};

// What one block does. Blocks of rows with many keys come first, those of one head together.
struct Place {
  int set;  // b, head set and split
  int b, head_set, split, kv, row0;
};
__device__ __forceinline__ Place PlaceOf(const Forward& args, int rows) {
  const int block = static_cast<int>(blockIdx.x);
  Place at;
  at.set = block / args.tiles;
  at.row0 = (args.tiles - 1 - block % args.tiles) * rows;
  at.split = at.set % args.splits;
  at.head_set = at.set / args.splits % args.head_sets;
  at.b = at.set / args.splits / args.head_sets;
  const int group = static_cast<int>(args.problem.group);
  at.kv = args.per == group ? at.head_set : at.head_set / group;
  return at;
}

// The keys a block of rows walks over, from a multiple of `keys` on. Host and device.
struct KeyRange {
  int begin, end;
};
__host__ __device__ inline KeyRange KeysOf(const Forward& args, const Span& all, int split,
                                           int keys) {
  if (all.high < 0) return {0, 0};
  int64_t begin = all.low / keys * keys, end = static_cast<int64_t>(all.high) + 1;
  if (args.partial != nullptr) {
    begin += static_cast<int64_t>(split) * args.segment;
    if (begin + args.segment < end) end = begin + args.segment;
    if (begin > end) begin = end;
  }
  return {static_cast<int>(begin), static_cast<int>(end)};
}

// Rows of T queries whose heads are packed `per` at a time.
void ForwardBf16(const Arguments& in, const char* op, Forward args);
void ForwardF32(const Arguments& in, const char* op, Forward args);
// On sm_90a; D at most 128, rows unpacked, not in a ring, 16-byte aligned.
void ForwardHopper(const Arguments& in, const char* op, const Forward& args);
// Joins the segments of `args`, in order, into out.
void JoinSplits(const Arguments& in, const char* op, const Forward& args, DType dtype);

}  // namespace fuselm::cuda::attention
