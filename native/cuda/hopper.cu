// Tensor maps, encoded by the driver: its function is found at run time, so that the plugin opens
// without a driver.
#include "native/cuda/hopper.cuh"

#include <algorithm>
#include <cstdlib>
#include <iterator>
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

bool WgmmaWanted(const Arguments& in, Wgmma kernel) {
  static const unsigned wanted = [] {
    const char* const setting = std::getenv("FUSELM_CUDA_WGMMA");
    std::string_view left = setting == nullptr ? "" : setting;
    if (left == "1") return ~0u;
    constexpr std::string_view kNames[] = {"forward", "backward", "product", "int8"};
    unsigned bits = 0;
    while (!left.empty()) {
      const std::string_view name = left.substr(0, left.find(','));
      for (unsigned i = 0; i < std::size(kNames); ++i)
        if (name == kNames[i]) bits |= 1u << i;
      left.remove_prefix(std::min(left.size(), name.size() + 1));
    }
    return bits;
  }();
  return (wanted >> static_cast<unsigned>(kernel) & 1) != 0 && in.device.major == 9 &&
         in.device.shared_limit >= kHopperBytes;
}

TensorMap MakeTensorMap(const void* data, int64_t columns, int64_t rows, int64_t heads, int64_t B,
                        const int64_t (&stride)[3], int box, int item) {
  TensorMap map{};
#ifdef __CUDACC__
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(B)};
  cuuint64_t strides[3];
  for (int i = 0; i < 3; ++i) {
    // any valid one for an axis of 1
    strides[i] = sizes[i + 1] == 1 ? 16 : static_cast<cuuint64_t>(stride[i] * item);
  }
  const cuuint32_t boxes[4] = {static_cast<cuuint32_t>(kPanelBytes / item),
                               static_cast<cuuint32_t>(box), 1, 1};
  const cuuint32_t ones[4] = {1, 1, 1, 1};
  const CUresult status =
      Encode()(&map, item == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
               4, const_cast<void*>(data), sizes, strides, boxes, ones,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    Throw(ErrorCode::kDevice, "cuda: the driver refuses a tensor map (error %d)",
          static_cast<int>(status));
  }
#else
  map.data = static_cast<const std::byte*>(data);
  const int64_t size[4] = {columns, rows, heads, B};
  for (int i = 0; i < 4; ++i) {
    map.size[i] = size[i];
    map.stride[i] = (i == 0 ? 1 : stride[i - 1]) * item;
  }
  map.box = box, map.item = item;
#endif
  return map;
}

}  // namespace fuselm::cuda
