// The part of cublasLt.h that is used, for toolkits are not needed to build or run: names without
// their prefix, values as NVIDIA documents them (cuBLAS manual, "Using the cuBLASLt API"; the same
// in versions 11.4 to 13).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fuselm::cublaslt {

inline constexpr int kSuccess = 0, kNotSupported = 15;
inline constexpr int kR32F = 0, kR16BF = 14;  // cudaDataType
inline constexpr int kCompute32F = 68;        // float32 sums; of float32 operands, no TF32
inline constexpr int32_t kOpN = 0, kOpT = 1;
// cublasLtMatmulDescAttributes_t
inline constexpr int kDescTransA = 3, kDescTransB = 4, kDescEpilogue = 7, kDescBiasPointer = 8;
inline constexpr uint32_t kEpilogueBias = 4;
// cublasLtMatrixLayoutAttribute_t
inline constexpr int kLayoutBatchCount = 5, kLayoutBatchOffset = 6;
// cublasLtMatmulPreferenceAttributes_t
inline constexpr int kPrefWorkspace = 1, kPrefReductionMask = 3, kPrefAlignA = 5, kPrefAlignB = 6,
                     kPrefAlignC = 7, kPrefAlignD = 8;
inline constexpr uint32_t kReduceInComputeType = 2;

struct Algo {
  uint64_t data[8];
};
struct HeuristicResult {
  Algo algo;
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};

// Handles and descriptors are opaque pointers.
struct Api {
  int (*Create)(void** handle);
  size_t (*GetVersion)();
  int (*MatmulDescCreate)(void** desc, int compute, int scale_type);
  int (*MatmulDescDestroy)(void* desc);
  int (*MatmulDescSetAttribute)(void* desc, int attribute, const void* value, size_t bytes);
  int (*MatrixLayoutCreate)(void** layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*MatrixLayoutDestroy)(void* layout);
  int (*MatrixLayoutSetAttribute)(void* layout, int attribute, const void* value, size_t bytes);
  int (*MatmulPreferenceCreate)(void** preference);
  int (*MatmulPreferenceDestroy)(void* preference);
  int (*MatmulPreferenceSetAttribute)(void* preference, int attribute, const void* value,
                                      size_t bytes);
  int (*MatmulAlgoGetHeuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d,
                                void* preference, int wanted, HeuristicResult* results, int* found);
  int (*Matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout,
                const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                void* d, void* d_layout, const Algo* algo, void* workspace, size_t bytes,
                void* stream);
};

}  // namespace fuselm::cublaslt
