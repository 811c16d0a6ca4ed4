// levels: generic avx2 avx512
// y = cond ? a : b, on bits: a NaN stays the NaN it is. Bandwidth-bound.
#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/rows.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class T>
void Row(void* y, const Operand* in, int64_t n, bool, const void*) {
  T* const out = static_cast<T*>(y);
  const uint8_t* const cond = in[0].as<uint8_t>();
  const T *const a = in[1].as<T>(), *const b = in[2].as<T>();
  // Plain loops that the compiler vectorises; a step of 0 or 1 known to it.
  const auto run = [&](auto left, auto right) {
    if (in[0].repeats) {
      if (*cond)
        for (int64_t i = 0; i < n; ++i) out[i] = left(i);
      else
        for (int64_t i = 0; i < n; ++i) out[i] = right(i);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        const T l = left(i), r = right(i);
        out[i] = cond[i] ? l : r;
      }
    }
  };
  const auto along = [](const T* p) { return [p](int64_t i) { return p[i]; }; };
  const auto repeated = [](const T* p) { return [value = *p](int64_t) { return value; }; };
  if (in[1].repeats && in[2].repeats) return run(repeated(a), repeated(b));
  if (in[1].repeats) return run(repeated(a), along(b));
  if (in[2].repeats) return run(along(a), repeated(b));
  run(along(a), along(b));
}

void Where(Invocation& inv) {
  const View &cond = inv[0], &a = inv[1], &b = inv[2], &y = inv[3];
  RequireDType("where", cond, DType::kU8);
  RequireDType("where", b, a.dtype);
  RequireDType("where", y, a.dtype);
  for (int i = 0; i < 3; ++i) RequireSameShape("where", inv[i], y);
  const auto run = [&](RowFn row) { ForRows(inv, y, {&cond, &a, &b}, row); };
  switch (ItemSize(a.dtype)) {
    case 1: return run(Row<uint8_t>);
    case 2: return run(Row<uint16_t>);
    case 4: return run(Row<uint32_t>);
    default: return run(Row<uint64_t>);
  }
}
FUSELM_KERNEL("where(cond, a, b) -> (y)", kAnyDType, Where);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
