// Tensor maps, encoded by the driver: its function is found at run time, so that the plugin opens
// without a driver.
#include "native/cuda/hopper.cuh"

#include <cstdlib>
#include <string_view>

namespace fuselm::cuda {

#ifdef __CUDACC__
namespace {

using EncodeFn = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                              const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                              const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeFn Encode() {
  static const EncodeFn found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    Check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                           cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
    return reinterpret_cast<EncodeFn>(function);
  }();
  Require(found != nullptr, ErrorCode::kDevice, "cuda: the driver has no cuTensorMapEncodeTiled");
  return found;
}

}  // namespace
#endif

bool WgmmaWanted(const Arguments& in) {
  static const bool wanted = [] {
    const char* value = std::getenv("FUSELM_CUDA_WGMMA");
    return value != nullptr && std::string_view(value) == "1";
  }();
  return wanted && in.device.major == 9 && in.device.shared_limit >= kHopperBytes;
}

TensorMap MakeTensorMap(const void* data, int64_t columns, int64_t rows, int64_t heads, int64_t B,
                        const int64_t (&stride)[3], int box) {
  TensorMap map{};
#ifdef __CUDACC__
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(B)};
  cuuint64_t strides[3];
  for (int i = 0; i < 3; ++i) {
    // any valid one for an axis of 1
    strides[i] = sizes[i + 1] == 1 ? 16 : static_cast<cuuint64_t>(stride[i]) * sizeof(bf16);
  }
  const cuuint32_t boxes[4] = {kPanelColumns, static_cast<cuuint32_t>(box), 1, 1};
  const cuuint32_t ones[4] = {1, 1, 1, 1};
  const CUresult status =
      Encode()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(data), sizes, strides,
               boxes, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    Throw(ErrorCode::kDevice, "cuda: the driver refuses a tensor map (error %d)",
          static_cast<int>(status));
  }
#else
  map.data = static_cast<const std::byte*>(data);
  const int64_t size[4] = {columns, rows, heads, B};
  for (int i = 0; i < 4; ++i) {
    map.size[i] = size[i];
    map.stride[i] = (i == 0 ? 1 : stride[i - 1]) * static_cast<int64_t>(sizeof(bf16));
  }
  map.box = box;
#endif
  return map;
}

}  // namespace fuselm::cuda
