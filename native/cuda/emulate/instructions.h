// Models of tensor-core, matrix-load and Hopper instructions, for mma.cuh and hopper.cuh, which say
// what each does and where its operands lie.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fuselm::emulate {

// One warp's; every lane calls.
void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void LdMatrix(uint32_t (&r)[4], const void* row, bool transposed);

// An mbarrier is 8 bytes of shared memory.
void MbarrierInit(void* b, int arrivals);
void MbarrierArrive(void* b, int bytes);
void MbarrierWait(void* b, int parity);
void ProxyFence();

struct alignas(64) TensorMap {
  const std::byte* data;
  int64_t size[4], stride[4];  // columns, rows, heads, B; strides in bytes
  int box, item;               // rows of a box; bytes of an element
};
void TensorCopy(void* panel, const TensorMap& map, void* b, int column, int row, int head,
                int batch);
void BulkCopy(void* to, const void* from, int bytes, void* b);

// m64 x n x k16 of a warpgroup. A: registers, or by descriptor along its rows or down them; B by
// descriptor.
void Wgmma(float* d, int n, const uint32_t* a, uint64_t a_at, bool a_down, uint64_t b_at,
           bool b_down, int add);
// k32 of int8, both along rows.
void WgmmaInt8(int32_t* d, int n, uint64_t a_at, uint64_t b_at, int add);
void WgmmaCommit();
void WgmmaWait(int under_way);

}  // namespace fuselm::emulate
