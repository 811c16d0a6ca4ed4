// What `-fsanitize=thread` calls before every load and store of the kernels, in place of its
// library.
#include "native/cuda/emulate/check.h"

using fuselm::emulate::CheckRead;
using fuselm::emulate::CheckWrite;

extern "C" {

#define FUSELM_ACCESS(name, check, bytes) \
  void __tsan_##name(void* p) { check(p, bytes, __builtin_return_address(0)); }
#define FUSELM_ACCESSES(bytes)                             \
  FUSELM_ACCESS(read##bytes, CheckRead, bytes)             \
  FUSELM_ACCESS(write##bytes, CheckWrite, bytes)           \
  FUSELM_ACCESS(unaligned_read##bytes, CheckRead, bytes)   \
  FUSELM_ACCESS(unaligned_write##bytes, CheckWrite, bytes) \
  FUSELM_ACCESS(volatile_read##bytes, CheckRead, bytes)    \
  FUSELM_ACCESS(volatile_write##bytes, CheckWrite, bytes)
FUSELM_ACCESSES(1)
FUSELM_ACCESSES(2)
FUSELM_ACCESSES(4)
FUSELM_ACCESSES(8)
FUSELM_ACCESSES(16)

void __tsan_read_range(void* p, size_t bytes) { CheckRead(p, bytes, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t bytes) {
  CheckWrite(p, bytes, __builtin_return_address(0));
}
void __tsan_vptr_update(void*, void*) {}
void __tsan_init() {}
// Atomics of the host, in launchers and the queue: kernels have CUDA's own.
#define FUSELM_ATOMICS(bits)                                                                      \
  using Word##bits = uint##bits##_t;                                                              \
  Word##bits __tsan_atomic##bits##_load(const volatile Word##bits* p, int) {                      \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                               \
  void __tsan_atomic##bits##_store(volatile Word##bits* p, Word##bits value, int) {               \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                               \
  Word##bits __tsan_atomic##bits##_exchange(volatile Word##bits* p, Word##bits value, int) {      \
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                       \
  }                                                                                               \
  Word##bits __tsan_atomic##bits##_fetch_add(volatile Word##bits* p, Word##bits value, int) {     \
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);                                        \
  }                                                                                               \
  Word##bits __tsan_atomic##bits##_fetch_sub(volatile Word##bits* p, Word##bits value, int) {     \
    return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);                                        \
  }                                                                                               \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile Word##bits* p, Word##bits* old,      \
                                                    Word##bits value, int, int) {                 \
    return __atomic_compare_exchange_n(p, old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
FUSELM_ATOMICS(8)
FUSELM_ATOMICS(32)
FUSELM_ATOMICS(64)

}  // extern "C"
