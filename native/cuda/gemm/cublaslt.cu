// Products through cuBLASLt. The library is found by its name, as the loader finds libraries
// (LD_LIBRARY_PATH too); FUSELM_CUBLASLT=<path> names another, FUSELM_CUBLASLT=off none. A plan
// (descriptors and the algorithm the heuristic chose) is made once per shape. Sums are float32 in
// all cases (no TF32, no partial sums in bf16), so that results differ from our own kernels' by the
// order of sums alone. The workspace is the command's.
//
// cuBLASLt counts columns first, so that the row-major C [m, n] is its D [n, m]: our B is its A.

#include "native/cuda/gemm/cublaslt.cuh"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "native/cuda/gemm/cublaslt_api.h"
#include "native/cuda/life.cuh"

namespace fuselm::cuda {
namespace {

using cublaslt::Api;

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr size_t kMostPlans = 4096;
constexpr uint32_t kAlignment = 16;

struct Library {
  Api api{};
  bool usable = false;
  std::string status;
};

bool Resolve(void* library, Api* api, std::string* missing) {
  const auto find = [&](auto& function, const char* name) {
    const std::string symbol = std::string("cublasLt") + name;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(
        dlsym(library, symbol.c_str()));
    if (function == nullptr && missing->empty()) *missing = symbol;
  };
  find(api->Create, "Create");
  find(api->GetVersion, "GetVersion");
  find(api->MatmulDescCreate, "MatmulDescCreate");
  find(api->MatmulDescDestroy, "MatmulDescDestroy");
  find(api->MatmulDescSetAttribute, "MatmulDescSetAttribute");
  find(api->MatrixLayoutCreate, "MatrixLayoutCreate");
  find(api->MatrixLayoutDestroy, "MatrixLayoutDestroy");
  find(api->MatrixLayoutSetAttribute, "MatrixLayoutSetAttribute");
  find(api->MatmulPreferenceCreate, "MatmulPreferenceCreate");
  find(api->MatmulPreferenceDestroy, "MatmulPreferenceDestroy");
  find(api->MatmulPreferenceSetAttribute, "MatmulPreferenceSetAttribute");
  find(api->MatmulAlgoGetHeuristic, "MatmulAlgoGetHeuristic");
  find(api->Matmul, "Matmul");
  return missing->empty();
}

Library Open() {
  Library out;
  const char* setting = std::getenv("FUSELM_CUBLASLT");
  const std::string chosen = setting == nullptr ? "" : setting;
  if (chosen == "off") {
    out.status = "cuBLASLt is off (FUSELM_CUBLASLT=off)";
    return out;
  }
#ifdef __CUDACC__
  constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
#else
  constexpr std::array<const char*, 0> kNames{};  // the emulator runs none that is not named
#endif
  void* library = nullptr;
  std::string name = chosen, why;
  const auto open = [&](const std::string& path) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) {
      name = path;
    } else if (why.empty()) {
      const char* error = dlerror();
      why = error == nullptr ? path + " did not open" : error;
    }
  };
  if (!chosen.empty()) {
    open(chosen);
  } else {
    for (const char* candidate : kNames)
      if (library == nullptr) open(candidate);
  }
  if (library == nullptr) {
    out.status = "cuBLASLt was not found, so products run on fuselm's own kernels" +
                 (why.empty() ? std::string() : " (" + why + ")") +
                 "; install it, or name it in FUSELM_CUBLASLT";
    return out;
  }
  std::string missing;
  if (!Resolve(library, &out.api, &missing)) {
    out.status = name + " has no " + missing;
    return out;
  }
  const size_t version = out.api.GetVersion();
  EndCallsBeforeUnloading();
  out.usable = true;
  out.status = "cuBLASLt " + std::to_string(version / 10000) + "." +
               std::to_string(version / 100 % 100) + "." + std::to_string(version % 100) + " (" +
               name + ")";
  return out;
}

const Library& TheLibrary() {
  static const auto* library = new Library(Open());
  return *library;
}

struct Plan {
  bool usable = false;
  void *desc = nullptr, *a = nullptr, *b = nullptr, *c = nullptr, *d = nullptr;
  cublaslt::Algo algo{};
  size_t workspace = 0;
};

// What a plan depends on.
using Key = std::array<int64_t, 20>;

struct Cache {
  std::mutex mutex;
  std::map<int, void*> handles;  // by device
  std::map<Key, Plan> plans;
};
Cache& TheCache() {
  static auto* cache = new Cache;
  return *cache;
}

void Release(const Api& api, Plan& plan) {
  if (plan.desc) api.MatmulDescDestroy(plan.desc);
  for (void* layout : {plan.a, plan.b, plan.c, plan.d})
    if (layout) api.MatrixLayoutDestroy(layout);
  plan = {};
}

// An operand as cuBLASLt sees it: its memory, columns first.
bool MakeLayout(const Api& api, void** layout, int type, int64_t rows, int64_t cols, int64_t ld,
                const GemmBatch& batch, int64_t offset) {
  if (api.MatrixLayoutCreate(layout, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols),
                             ld) != cublaslt::kSuccess)
    return false;
  if (batch.rank == 0) return true;
  const auto count = static_cast<int32_t>(batch.count);
  return api.MatrixLayoutSetAttribute(*layout, cublaslt::kLayoutBatchCount, &count, sizeof count) ==
             cublaslt::kSuccess &&
         api.MatrixLayoutSetAttribute(*layout, cublaslt::kLayoutBatchOffset, &offset,
                                      sizeof offset) == cublaslt::kSuccess;
}

bool MakePlan(const Api& api, void* handle, const GemmProblem& p, bool bias, Plan* plan) {
  const GemmSegment& s = p.segments[0];
  const int type = p.dtype == DType::kBF16 ? cublaslt::kR16BF : cublaslt::kR32F;
  const int out_type = p.out.dtype == DType::kBF16 ? cublaslt::kR16BF : cublaslt::kR32F;
  const int32_t op_a = s.b.along_k ? cublaslt::kOpT : cublaslt::kOpN;
  const int32_t op_b = s.a.along_k ? cublaslt::kOpN : cublaslt::kOpT;
  const auto set = [&](int attribute, const auto& value) {
    return api.MatmulDescSetAttribute(plan->desc, attribute, &value, sizeof value) ==
           cublaslt::kSuccess;
  };
  const auto layout = [&](void** to, const GemmOperand& o, int64_t extent, int64_t offset) {
    return MakeLayout(api, to, type, o.along_k ? s.k : extent, o.along_k ? extent : s.k, o.stride,
                      p.batch, offset);
  };
  const int64_t c_stride = p.out.addend ? p.out.addend_stride : p.out.stride;
  bool ok = api.MatmulDescCreate(&plan->desc, cublaslt::kCompute32F, cublaslt::kR32F) ==
                cublaslt::kSuccess &&
            set(cublaslt::kDescTransA, op_a) && set(cublaslt::kDescTransB, op_b) &&
            (!bias || set(cublaslt::kDescEpilogue, cublaslt::kEpilogueBias)) &&
            layout(&plan->a, s.b, p.n, p.batch.b[0]) && layout(&plan->b, s.a, p.m, p.batch.a[0]) &&
            MakeLayout(api, &plan->c, out_type, p.n, p.m, c_stride, p.batch, p.batch.c[0]) &&
            MakeLayout(api, &plan->d, out_type, p.n, p.m, p.out.stride, p.batch, p.batch.c[0]);
  void* preference = nullptr;
  ok = ok && api.MatmulPreferenceCreate(&preference) == cublaslt::kSuccess;
  const auto prefer = [&](int attribute, const auto& value) {
    return api.MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value) ==
           cublaslt::kSuccess;
  };
  ok = ok && prefer(cublaslt::kPrefWorkspace, uint64_t{kWorkspaceBytes}) &&
       prefer(cublaslt::kPrefReductionMask, cublaslt::kReduceInComputeType);
  for (const int attribute :
       {cublaslt::kPrefAlignA, cublaslt::kPrefAlignB, cublaslt::kPrefAlignC, cublaslt::kPrefAlignD})
    ok = ok && prefer(attribute, kAlignment);
  cublaslt::HeuristicResult best{};
  int found = 0;
  ok = ok &&
       api.MatmulAlgoGetHeuristic(handle, plan->desc, plan->a, plan->b, plan->c, plan->d,
                                  preference, 1, &best, &found) == cublaslt::kSuccess &&
       found > 0 && best.status == cublaslt::kSuccess && best.workspace <= kWorkspaceBytes;
  if (preference) api.MatmulPreferenceDestroy(preference);
  plan->algo = best.algo;
  plan->workspace = best.workspace;
  return ok;
}

bool Fits(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0 &&
         stride * static_cast<int64_t>(ItemSize(dtype)) % kAlignment == 0;
}

}  // namespace

const char* CublasLtStatus() { return TheLibrary().status.c_str(); }

bool CublasLtUsable() { return TheLibrary().usable; }

bool CublasLtGemm(const Arguments& in, const GemmProblem& p) {
  const GemmSegment& s = p.segments[0];
  const bool bias = p.out.bias && p.out.bias->data;
  if (p.segments.size() != 1 || s.k == 0 || p.batch.rank > 1 || p.out.scales) return false;
  if (p.out.addend &&
      (p.batch.rank > 0 || p.out.dtype != DType::kF32 || p.out.addend_dtype != DType::kF32))
    return false;
  if (bias && (p.out.bias->dtype != p.out.dtype || p.out.dtype != p.dtype ||
               !Fits(p.out.bias->data, 0, p.out.dtype)))
    return false;
  // a leading dimension is never shorter than the rows it is one of
  const auto wide = [](const GemmOperand& o, int64_t extent, int64_t k) {
    return o.stride >= (o.along_k ? k : extent);
  };
  if (!wide(s.a, p.m, s.k) || !wide(s.b, p.n, s.k)) return false;
  if (!Fits(s.a.data, s.a.stride, p.dtype) || !Fits(s.b.data, s.b.stride, p.dtype) ||
      !Fits(p.out.data, p.out.stride, p.out.dtype) ||
      (p.out.addend && !Fits(p.out.addend, p.out.addend_stride, DType::kF32)))
    return false;
  if (p.batch.rank == 1 &&
      (!Fits(s.a.data, p.batch.a[0], p.dtype) || !Fits(s.b.data, p.batch.b[0], p.dtype) ||
       !Fits(p.out.data, p.batch.c[0], p.out.dtype)))
    return false;
  const Library& library = TheLibrary();
  if (!library.usable) return false;
  const Api& api = library.api;

  const Key key{in.device.ordinal,
                static_cast<int64_t>(p.dtype),
                static_cast<int64_t>(p.out.dtype),
                p.m,
                p.n,
                s.k,
                s.a.along_k,
                s.b.along_k,
                s.a.stride,
                s.b.stride,
                p.out.stride,
                p.out.addend ? p.out.addend_stride : -1,
                bias,
                p.batch.rank,
                p.batch.count,
                p.batch.a[0],
                p.batch.b[0],
                p.batch.c[0]};
  Cache& cache = TheCache();
  // held over the call: the descriptor holds the bias's address
  const std::lock_guard<std::mutex> lock(cache.mutex);
  void*& handle = cache.handles[in.device.ordinal];
  if (handle == nullptr) {
    if (api.Create(&handle) != cublaslt::kSuccess) {
      handle = nullptr;
      return false;
    }
    EndCallsBeforeUnloading();  // it may have loaded more
  }
  auto at = cache.plans.find(key);
  if (at == cache.plans.end()) {
    if (cache.plans.size() >= kMostPlans) {
      for (auto& entry : cache.plans) Release(api, entry.second);
      cache.plans.clear();
    }
    at = cache.plans.emplace(key, Plan{}).first;
    Plan& fresh = at->second;
    const bool ok = MakePlan(api, handle, p, bias, &fresh);
    if (!ok) Release(api, fresh);
    fresh.usable = ok;
  }
  Plan& plan = at->second;
  if (!plan.usable) return false;
  if (bias && api.MatmulDescSetAttribute(plan.desc, cublaslt::kDescBiasPointer, &p.out.bias->data,
                                         sizeof(void*)) != cublaslt::kSuccess)
    return false;
  const float alpha = 1, beta = p.out.addend ? 1 : 0;
  const void* const c = p.out.addend ? p.out.addend : p.out.data;
  void* const workspace =
      plan.workspace > 0 ? in.Workspace<char>(static_cast<int64_t>(plan.workspace)) : nullptr;
  const int status =
      api.Matmul(handle, plan.desc, &alpha, s.b.data, plan.a, s.a.data, plan.b, &beta, c, plan.c,
                 p.out.data, plan.d, &plan.algo, workspace, plan.workspace, in.stream);
  if (status != cublaslt::kSuccess) {
    Release(api, plan);  // and our own kernels do this shape from now on
    return false;
  }
  return true;
}

}  // namespace fuselm::cuda
