#include "native/core/kernel.h"

#include <cstdarg>
#include <cstdio>
#include <vector>

namespace fuselm {
namespace {

std::vector<KernelInfo>& Table() {
  static auto* table =
      new std::vector<KernelInfo>;  // leaked: no runtime object is destroyed at exit
  return *table;
}

}  // namespace

int RegisterKernel(const KernelInfo& info) {
  Table().push_back(info);
  return static_cast<int>(Table().size());
}

std::span<const KernelInfo> RegisteredKernels() { return Table(); }

const char* LevelName(Level level) {
  switch (level) {
    case Level::kGeneric: return "generic";
    case Level::kAvx2: return "avx2";
    case Level::kAvx512: return "avx512";
    case Level::kAvx512Bf16: return "avx512bf16";
    case Level::kAmx: return "amx";
  }
  return "?";
}

const char* DTypeName(DType d) {
  switch (d) {
    case DType::kF32: return "f32";
    case DType::kBF16: return "bf16";
    case DType::kF64: return "f64";
    case DType::kI32: return "i32";
    case DType::kU32: return "u32";
    case DType::kI8: return "i8";
    case DType::kU8: return "u8";
    case DType::kU16: return "u16";
  }
  return "?";
}

void Throw(ErrorCode code, const char* format, ...) {
  char message[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof message, format, args);
  va_end(args);
  throw Error(code, message);
}

void ThrowNotFloat(DType d) {
  throw Error(ErrorCode::kShape, std::string("expected f32 or bf16, received ") + DTypeName(d));
}

std::string View::ToString() const {
  std::string s = DTypeName(dtype);
  s += '[';
  for (int i = 0; i < rank; ++i) {
    if (i > 0) s += ',';
    s += std::to_string(shape[i]);
  }
  return s + ']';
}

}  // namespace fuselm
