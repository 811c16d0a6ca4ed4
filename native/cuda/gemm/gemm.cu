// Which kernel answers a product, and what it needs first: operands aligned for 16-byte copies, and
// K cut into slices when C has few tiles (as for dW), whose sums are then joined in order. Every
// choice follows from the shape, never from the card, so that results do not differ between cards.

#include <algorithm>

#include "native/cuda/gemm/cublaslt.cuh"
#include "native/cuda/gemm/kernels.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostProducts = 65535;  // of a launch: the limit of grid.z

// c = sum of slices (+ bias, addend): one thread two neighbours, each slice read once.
__global__ void __launch_bounds__(kThreads)
    SumSlices(const float* parts, int64_t slices, const __grid_constant__ Epilogue out) {
  const int64_t size = static_cast<int64_t>(out.m) * out.n;
  const int64_t pairs_of_row = (out.n + 1) / 2;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= pairs_of_row * out.m) return;
  const int64_t row = i / pairs_of_row, column = i % pairs_of_row * 2;
  const float* p = parts + row * out.n + column;
  const bool two = column + 1 < out.n;
  float v0 = 0, v1 = 0;
  for (int64_t s = 0; s < slices; ++s, p += size) {
    v0 += p[0];
    if (two) v1 += p[1];
  }
  out.Store2(static_cast<int>(row), static_cast<int>(column), v0, v1);
}

// The operand with data and all rows 16-byte aligned, copied when they are not. `rows` are those of
// memory: of the operand when K runs along them, of K otherwise.
GemmOperand Aligned(const Arguments& in, const GemmOperand& o, DType dtype, int64_t extent,
                    int64_t k, const GemmBatch& batch, int64_t* strides) {
  const int64_t item = static_cast<int64_t>(ItemSize(dtype)), unit = 16 / item;
  const int64_t rows = o.along_k ? extent : k, cols = o.along_k ? k : extent;
  bool fine = reinterpret_cast<uintptr_t>(o.data) % 16 == 0 && (rows <= 1 || o.stride % unit == 0);
  for (int i = 0; i < batch.rank; ++i) fine = fine && (strides[i] % unit == 0);
  // one row has no stride of its own, but the kernels check none
  if (fine) return {o.data, rows <= 1 ? CeilDiv(cols, unit) * unit : o.stride, o.along_k};
  View v;
  v.data = const_cast<void*>(o.data);
  v.dtype = dtype;
  v.rank = batch.rank + 2;
  Require(v.rank <= kMaxRank, ErrorCode::kShape, "a product has too many axes");
  for (int i = 0; i < batch.rank; ++i) {
    v.shape[i] = strides[i] == 0 ? 1 : batch.shape[i];
    v.stride[i] = strides[i];
  }
  v.shape[batch.rank] = rows, v.stride[batch.rank] = o.stride;
  v.shape[batch.rank + 1] = cols, v.stride[batch.rank + 1] = 1;
  const int64_t stride = CeilDiv(cols, unit) * unit;
  const void* copy = CopyRows(in, v, stride);
  int64_t next = rows * stride;
  for (int i = batch.rank - 1; i >= 0; --i) {
    if (strides[i] == 0) continue;
    strides[i] = next;
    next *= batch.shape[i];
  }
  return {copy, stride, o.along_k};
}

Epilogue EpilogueOf(const GemmProblem& p, bool addend = true) {
  Epilogue out{};
  out.c = p.out.data;
  out.stride = p.out.stride;
  out.m = static_cast<int>(p.m), out.n = static_cast<int>(p.n);
  out.bf16_out = p.out.dtype == DType::kBF16;
  if (p.out.bias && p.out.bias->data) {
    out.bias = p.out.bias->data;
    out.bias_bf16 = p.out.bias->dtype == DType::kBF16;
  }
  out.scales = p.out.scales;
  out.addend = addend ? p.out.addend : nullptr;
  out.addend_stride = p.out.addend_stride;
  out.addend_bf16 = p.out.addend_dtype == DType::kBF16;
  const uintptr_t pair = 2 * ItemSize(p.out.dtype);
  out.pairs =
      reinterpret_cast<uintptr_t>(out.c) % pair == 0 && out.stride % 2 == 0 &&
      (!out.addend || (reinterpret_cast<uintptr_t>(out.addend) % (out.addend_bf16 ? 4 : 8) == 0 &&
                       out.addend_stride % 2 == 0));
  for (int i = 0; i < p.batch.rank; ++i) out.pairs = out.pairs && p.batch.c[i] % 2 == 0;
  const auto by16 = [](const void* data, int64_t stride, bool of_bf16) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % (of_bf16 ? 8 : 4) == 0;
  };
  out.wide = by16(out.c, out.stride, out.bf16_out) && by16(out.scales, 0, false) &&
             by16(out.bias, 0, out.bias_bf16) &&
             by16(out.addend, out.addend_stride, out.addend_bf16);
  for (int i = 0; i < p.batch.rank; ++i)
    out.wide = out.wide && by16(nullptr, p.batch.c[i], out.bf16_out);
  return out;
}

// Slices of K: enough blocks for a large card, none shorter than kShortest.
int64_t SlicesOf(const GemmProblem& p, int64_t k) {
  constexpr int64_t kBlocks = 264, kShortest = 1024;
  const int64_t tiles = CeilDiv(p.m, 128) * CeilDiv(p.n, 128);
  return std::max<int64_t>(1, std::min(kBlocks / tiles, k / kShortest));
}

// Neighbouring batch axes as one where all strides allow it.
GemmBatch Collapsed(const GemmBatch& batch) {
  GemmBatch out;
  out.count = batch.count;
  for (int i = 0; i < batch.rank; ++i) {
    const int64_t n = batch.shape[i];
    if (n == 1) continue;
    const int last = out.rank - 1;
    if (last >= 0 && out.a[last] == n * batch.a[i] && out.b[last] == n * batch.b[i] &&
        out.c[last] == n * batch.c[i]) {
      out.shape[last] *= n;
      out.a[last] = batch.a[i], out.b[last] = batch.b[i], out.c[last] = batch.c[i];
      continue;
    }
    out.shape[out.rank] = n;
    out.a[out.rank] = batch.a[i], out.b[out.rank] = batch.b[i], out.c[out.rank++] = batch.c[i];
  }
  return out;
}

void OwnGemm(const Arguments& in, const char* what, const GemmProblem& p) {
  const size_t count = p.segments.size();
  const bool a_down = !p.segments[0].a.along_k, b_down = !p.segments[0].b.along_k;
  KernelArgs args{};
  args.count = static_cast<int>(count);
  args.batch = p.batch;
  args.out = EpilogueOf(p);
  for (size_t i = 0; i < count; ++i) {
    GemmSegment s = p.segments[i];
    if (p.dtype == DType::kBF16 && s.k > 0) {
      s.a = Aligned(in, s.a, p.dtype, p.m, s.k, p.batch, args.batch.a);
      s.b = Aligned(in, s.b, p.dtype, p.n, s.k, p.batch, args.batch.b);
    }
    args.segments[i] = {
        {s.a.data, s.a.stride, args.out.m}, {s.b.data, s.b.stride, args.out.n}, s.k};
  }
  const auto run = p.dtype == DType::kBF16 ? TensorCoreGemm : SimtGemm;
  if (p.batch.rank > 0) {
    for (int64_t from = 0; from < p.batch.count; from += kMostProducts) {
      args.batch_from = from;
      run(in, what, args, a_down, b_down, std::min(kMostProducts, p.batch.count - from));
    }
    return;
  }
  const int64_t k = p.segments[0].k;
  const int64_t slices = count == 1 ? SlicesOf(p, k) : 1;
  if (slices == 1) return run(in, what, args, a_down, b_down, 1);
  args.split = CeilDiv(CeilDiv(k, slices), kSplitUnit) * kSplitUnit;
  const int64_t parts = CeilDiv(k, args.split);
  float* const sums = in.Workspace<float>(parts * p.m * p.n);
  const Epilogue out = args.out;
  args.out = {};
  args.out.c = sums, args.out.stride = p.n;
  args.out.m = out.m, args.out.n = out.n;
  args.out.pairs = p.n % 2 == 0;
  args.out.wide = p.n % 4 == 0;
  run(in, what, args, a_down, b_down, parts);
  JoinSlices(in, what, sums, parts, out);
}

// By way of float32 sums in a workspace: several segments, or a bias that the library does not take
// beside bf16. Segments of a short K (a low-rank term) join in one pass of our own at the end.
// False when not even the first product can be done so.
bool CublasLtBySums(const Arguments& in, const char* what, const GemmProblem& p) {
  // Reading and writing the sums costs as much as the library saves on about this much K.
  constexpr int64_t kWorth = 1024, kShortK = 128;
  const bool bf16_out = p.out.dtype == DType::kBF16;
  GemmSegment long_ones[kMaxSegments], short_ones[kMaxSegments];
  size_t longs = 0, shorts = 0;
  for (const GemmSegment& s : p.segments) {
    if (s.k > kShortK)
      long_ones[longs++] = s;
    else
      short_ones[shorts++] = s;
  }
  if (!CublasLtUsable() || p.batch.rank > 0 || longs == 0 || long_ones[0].k < kWorth ||
      p.out.addend_dtype != DType::kF32 || (p.segments.size() == 1 && !bf16_out) ||
      (p.out.scales && p.segments.size() > 1))
    return false;
  const bool last_pass = shorts > 0 || bf16_out;
  GemmProblem part = p;
  part.out.scales = nullptr;  // joins in the last pass
  if (bf16_out) part.out.data = in.Workspace<float>(p.m * p.n), part.out.stride = p.n;
  part.out.dtype = DType::kF32;
  for (size_t i = 0; i < longs; ++i) {
    part.segments = {&long_ones[i], 1};
    part.out.bias = !last_pass && i + 1 == longs ? p.out.bias : nullptr;
    if (!CublasLtGemm(in, part)) {
      if (i == 0) return false;
      OwnGemm(in, what, part);
    }
    part.out.addend = part.out.data, part.out.addend_stride = part.out.stride;
  }
  if (!last_pass) return true;
  GemmProblem rest = p;
  rest.segments = {short_ones, shorts};
  rest.out.addend = part.out.data, rest.out.addend_stride = part.out.stride;
  if (shorts > 0)
    OwnGemm(in, what, rest);
  else
    JoinSlices(in, what, static_cast<const float*>(part.out.data), 1, EpilogueOf(rest, false));
  return true;
}

}  // namespace

void JoinSlices(const Arguments& in, const char* what, const float* parts, int64_t slices,
                const Epilogue& out) {
  const int64_t pairs = CeilDiv(out.n, 2) * out.m;
  Launch(in, what, {dim3(static_cast<unsigned>(CeilDiv(pairs, kThreads))), kThreads}, SumSlices,
         parts, slices, out);
}

void Gemm(const Arguments& in, const char* what, const GemmProblem& problem) {
  GemmProblem p = problem;
  if (p.m == 0 || p.n == 0 || p.batch.count == 0) return;
  constexpr int64_t kMost = (int64_t{1} << 31) - 256;
  Require(p.m < kMost && p.n < kMost, ErrorCode::kShape, "a product has a side of 2^31 or more");
  p.batch = Collapsed(p.batch);
  GemmSegment segments[kMaxSegments];
  size_t count = 0;
  for (const GemmSegment& s : p.segments) {
    Require(s.k < kMost, ErrorCode::kShape, "a product has a side of 2^31 or more");
    if (s.k > 0) segments[count++] = s;
  }
  if (count == 0) segments[count++] = {{nullptr, 0, true}, {nullptr, 0, true}, 0};
  const GemmSegment& first = segments[0];
  p.segments = {segments, count};

  if (p.m <= kGemvRows && first.a.along_k && first.b.along_k && count == 1 && p.batch.rank == 0 &&
      !p.out.addend && p.out.dtype == p.dtype) {
    const GemmSegment& s = segments[0];
    return Gemv(in, what,
                {p.dtype, p.m, p.n, s.k, s.a.data, s.a.stride, s.b.data, s.b.stride, nullptr,
                 p.out.bias, p.out.data, p.out.stride});
  }
  if (CublasLtGemm(in, p) || CublasLtBySums(in, what, p)) return;
  OwnGemm(in, what, p);
}

}  // namespace fuselm::cuda
