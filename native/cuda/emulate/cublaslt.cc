// Stands in for cuBLASLt in tests (FUSELM_CUBLASLT names it): the calls that gemm/cublaslt.cu
// makes, over host memory, by plain loops. It checks what the library would refuse.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "native/core/dtype.h"
#include "native/cuda/emulate/cuda_runtime.h"
#include "native/cuda/gemm/cublaslt_api.h"

using fuselm::bf16;
namespace lt = fuselm::cublaslt;

namespace {

struct Layout {
  int type;
  int64_t rows, cols, ld;
  int32_t batch = 1;
  int64_t offset = 0;

  double Get(const void* data, int64_t b, int64_t i, int64_t j) const {
    const int64_t at = b * offset + j * ld + i;
    if (type == lt::kR32F) return static_cast<const float*>(data)[at];
    return static_cast<const bf16*>(data)[at];
  }
  void Set(void* data, int64_t b, int64_t i, int64_t j, float value) const {
    const int64_t at = b * offset + j * ld + i;
    if (type == lt::kR32F)
      static_cast<float*>(data)[at] = value;
    else
      static_cast<bf16*>(data)[at] = bf16(value);
  }
};

struct Desc {
  int32_t op_a = lt::kOpN, op_b = lt::kOpN;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};

constexpr int kInvalid = 7;
bool unloaded = false;  // its exit handlers have run

bool Fit(const Desc& d, const Layout& a, const Layout& b, const Layout& c, const Layout& out) {
  const int64_t m = d.op_a == lt::kOpN ? a.rows : a.cols;
  const int64_t k = d.op_a == lt::kOpN ? a.cols : a.rows;
  const int64_t k_b = d.op_b == lt::kOpN ? b.rows : b.cols;
  const int64_t n = d.op_b == lt::kOpN ? b.cols : b.rows;
  for (const Layout* l : {&a, &b, &c, &out})
    if (l->ld < l->rows || l->batch != out.batch) return false;
  return k == k_b && c.rows == m && c.cols == n && out.rows == m && out.cols == n &&
         a.type == b.type && c.type == out.type && (out.type == lt::kR32F || out.type == a.type);
}

}  // namespace

extern "C" {

int cublasLtCreate(void** handle) {
  *handle = new int(0);
  std::atexit([] { unloaded = true; });
  return lt::kSuccess;
}
size_t cublasLtGetVersion() { return 130000; }
int cublasLtMatmulDescCreate(void** desc, int compute, int scale) {
  *desc = new Desc;
  return compute == lt::kCompute32F && scale == lt::kR32F ? lt::kSuccess : kInvalid;
}
int cublasLtMatmulDescDestroy(void* desc) {
  delete static_cast<Desc*>(desc);
  return lt::kSuccess;
}
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
  Desc& d = *static_cast<Desc*>(desc);
  const auto put = [&](auto& field) {
    if (bytes != sizeof field) return kInvalid;
    std::memcpy(&field, value, bytes);
    return lt::kSuccess;
  };
  switch (attribute) {
    case lt::kDescTransA: return put(d.op_a);
    case lt::kDescTransB: return put(d.op_b);
    case lt::kDescEpilogue: return put(d.epilogue);
    case lt::kDescBiasPointer: return put(d.bias);
    default: return kInvalid;
  }
}
int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld};
  return lt::kSuccess;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return lt::kSuccess;
}
int cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* value, size_t bytes) {
  Layout& l = *static_cast<Layout*>(layout);
  if (attribute == lt::kLayoutBatchCount && bytes == sizeof l.batch)
    std::memcpy(&l.batch, value, bytes);
  else if (attribute == lt::kLayoutBatchOffset && bytes == sizeof l.offset)
    std::memcpy(&l.offset, value, bytes);
  else
    return kInvalid;
  return lt::kSuccess;
}
int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new int(0);
  return lt::kSuccess;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<int*>(preference);
  return lt::kSuccess;
}
int cublasLtMatmulPreferenceSetAttribute(void*, int attribute, const void*, size_t bytes) {
  return bytes == (attribute == lt::kPrefWorkspace ? 8u : 4u) ? lt::kSuccess : kInvalid;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* a, void* b, void* c, void* d, void*,
                                   int wanted, lt::HeuristicResult* results, int* found) {
  const bool fit =
      Fit(*static_cast<Desc*>(desc), *static_cast<Layout*>(a), *static_cast<Layout*>(b),
          *static_cast<Layout*>(c), *static_cast<Layout*>(d));
  *found = fit ? std::min(1, wanted) : 0;
  if (!fit) return lt::kNotSupported;
  results[0] = {};
  results[0].workspace = 64;
  return lt::kSuccess;
}
int cublasLtMatmul(void*, void* desc, const void* alpha, const void* a, void* a_layout,
                   const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                   void* d, void* d_layout, const lt::Algo*, void* workspace, size_t bytes,
                   void* stream) {
  if (unloaded) std::abort();
  const Desc how = *static_cast<Desc*>(desc);
  const Layout la = *static_cast<Layout*>(a_layout), lb = *static_cast<Layout*>(b_layout),
               lc = *static_cast<Layout*>(c_layout), ld = *static_cast<Layout*>(d_layout);
  if (!Fit(how, la, lb, lc, ld) || bytes != 64) return kInvalid;
  if (const char* trace = std::getenv("FUSELM_CUBLASLT_TRACE")) {
    if (std::FILE* file = std::fopen(trace, "a")) {
      std::fprintf(file, "%ld x %ld\n", static_cast<long>(ld.cols), static_cast<long>(ld.rows));
      std::fclose(file);
    }
  }
  const float scale = *static_cast<const float*>(alpha), add = *static_cast<const float*>(beta);
  static_cast<EmulatedStream*>(stream)->Enqueue([=] {
    std::memset(workspace, 0xff, bytes);
    const int64_t k = how.op_a == lt::kOpN ? la.cols : la.rows;
    const Layout bias{ld.type, ld.rows, 1, ld.rows};
    for (int64_t z = 0; z < ld.batch; ++z)
      for (int64_t j = 0; j < ld.cols; ++j)
        for (int64_t i = 0; i < ld.rows; ++i) {
          double sum = 0;
          for (int64_t q = 0; q < k; ++q)
            sum += (how.op_a == lt::kOpN ? la.Get(a, z, i, q) : la.Get(a, z, q, i)) *
                   (how.op_b == lt::kOpN ? lb.Get(b, z, q, j) : lb.Get(b, z, j, q));
          sum *= scale;
          if (add != 0) sum += add * lc.Get(c, z, i, j);
          if (how.epilogue == lt::kEpilogueBias) sum += bias.Get(how.bias, 0, i, 0);
          ld.Set(d, z, i, j, static_cast<float>(sum));
        }
  });
  return lt::kSuccess;
}
}
