#include "native/cuda/emulate/instructions.h"

#include <cstring>

#include "native/cuda/emulate/check.h"
#include "native/cuda/emulate/cuda_runtime.h"

#define FUSELM_CALLER __builtin_return_address(0)

namespace fuselm::emulate {
namespace {

float Bf16(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
// The two halves of a word.
float Bf16Of(uint32_t word, int half) {
  return Bf16(static_cast<uint16_t>(half != 0 ? word >> 16 : word));
}

struct MbarrierModel {
  int16_t count, pending;
  int32_t tx : 31;
  uint32_t phase : 1;

  // Whether a phase is complete; the next has begun then.
  bool Settle() {
    if (pending != 0 || tx != 0) return false;
    phase ^= 1, pending = count;
    return true;
  }
};
static_assert(sizeof(MbarrierModel) == 8);
MbarrierModel& ModelOf(void* b) { return *static_cast<MbarrierModel*>(b); }

void Arrived(void* b, int bytes) {
  MbarrierModel& model = ModelOf(b);
  model.tx -= bytes;
  CheckMbarrierBytes(b, model.Settle());
}

// Where an element of an operand of wgmma stands in shared memory.
struct Operand {
  uint32_t start, leading, stride;
  explicit Operand(uint64_t d)
      : start(static_cast<uint32_t>(d & 0x3fff) << 4),
        leading(static_cast<uint32_t>(d >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(d >> 32 & 0x3fff) << 4) {}
  const std::byte* At(int i, int k, bool down) const {
    const uint32_t address =
        down ? start + static_cast<uint32_t>(i / 64) * leading +
                   static_cast<uint32_t>(k / 8) * stride + static_cast<uint32_t>(k % 8 * 128) +
                   static_cast<uint32_t>(i % 64 * 2)
             : start + static_cast<uint32_t>(i / 8) * stride + static_cast<uint32_t>(i % 8 * 128) +
                   static_cast<uint32_t>(k * 2);
    return static_cast<const std::byte*>(SharedAt(address ^ (address >> 3 & 0x70)));
  }
  float Value(int i, int k, bool down) const {
    uint16_t bits;
    std::memcpy(&bits, At(i, k, down), 2);
    return Bf16(bits);
  }
  // Rows (or columns) [from, end) of all 16 k are read by this lane's share of the warp's unit.
  void Check(int from, int end, bool down, int lane, const void* at) const {
    const int pieces = down ? (end - from) / 8 * 16 : (end - from) * 2;
    for (int piece = lane; piece < pieces; piece += 32) {
      const std::byte* const p = down ? At(from + piece / 16 * 8, piece % 16, true)
                                      : At(from + piece / 2, piece % 2 * 8, false);
      CheckWgmmaRead(p, 16, at);
    }
  }
};

}  // namespace

void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const uint32_t* const all = Exchange(mine);  // [32][6]
  const int lane = Lane(), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, col = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const uint32_t aw = all[((row % 8) * 4 + k % 8 / 2) * 6 + (k / 8) * 2 + row / 8];
      const uint32_t bw = all[(col * 4 + k % 8 / 2) * 6 + 4 + k / 8];
      d[i] += Bf16Of(aw, k % 2) * Bf16Of(bw, k % 2);
    }
  }
}

void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const uint32_t* const all = Exchange(mine);
  const int lane = Lane(), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, col = 2 * t + i % 2;
    for (int k = 0; k < 32; ++k) {
      const uint32_t aw = all[((row % 8) * 4 + k % 16 / 4) * 6 + (k / 16) * 2 + row / 8];
      const uint32_t bw = all[(col * 4 + k % 16 / 4) * 6 + 4 + k / 16];
      d[i] += static_cast<int8_t>(aw >> (k % 4 * 8)) * static_cast<int8_t>(bw >> (k % 4 * 8));
    }
  }
}

// A lane reads the words it gets. Transposed ones are halves of words, for which the lane that
// names the row stands in.
void LdMatrix(uint32_t (&r)[4], const void* row, bool transposed) {
  const void* const at = FUSELM_CALLER;
  if (transposed) CheckRead(row, 16, at);
  const void* const* const rows = Exchange(&row, 1);
  const int lane = Lane();
  for (int i = 0; i < 4; ++i) {
    if (!transposed) {
      const auto* const word = static_cast<const uint32_t*>(rows[i * 8 + lane / 4]) + lane % 4;
      CheckRead(word, 4, at);
      r[i] = *word;
      continue;
    }
    const int column = lane / 4, first = lane % 4 * 2;
    const uint32_t low = static_cast<const uint16_t*>(rows[i * 8 + first])[column];
    const uint32_t high = static_cast<const uint16_t*>(rows[i * 8 + first + 1])[column];
    r[i] = low | high << 16;
  }
}

void MbarrierInit(void* b, int arrivals) {
  CheckMbarrierInit(b, FUSELM_CALLER);
  ModelOf(b) = {static_cast<int16_t>(arrivals), static_cast<int16_t>(arrivals), 0, 0};
}

void MbarrierArrive(void* b, int bytes) {
  MbarrierModel& model = ModelOf(b);
  model.tx += bytes;
  --model.pending;
  CheckMbarrierArrive(b, model.Settle(), FUSELM_CALLER);
}

void MbarrierWait(void* b, int parity) {
  while (ModelOf(b).phase == static_cast<uint32_t>(parity)) Poll();
  CheckMbarrierPassed(b, FUSELM_CALLER);
}

void ProxyFence() { CheckProxyFence(); }

void TensorCopy(void* panel, const TensorMap& map, void* b, int column, int row, int head,
                int batch) {
  CheckTensorWrite(b, panel, static_cast<size_t>(map.box) * 128, FUSELM_CALLER);
  auto* const to = static_cast<std::byte*>(panel);
  std::memset(to, 0, static_cast<size_t>(map.box) * 128);
  const int64_t columns = std::clamp<int64_t>(map.size[0] - column, 0, 128 / map.item);
  const auto bytes = static_cast<size_t>(columns * map.item);
  const int64_t rows = std::clamp<int64_t>(map.size[1] - row, 0, map.box);
  for (int r = 0; r < rows && bytes > 0; ++r) {
    const std::byte* const from = map.data + column * map.stride[0] + (row + r) * map.stride[1] +
                                  head * map.stride[2] + batch * map.stride[3];
    CheckTensorRead(b, from, bytes, FUSELM_CALLER);
    for (size_t i = 0; i < bytes; i += 16) {
      std::memcpy(to + r * 128 + (i / 16 ^ static_cast<size_t>(r & 7)) * 16, from + i,
                  std::min<size_t>(bytes - i, 16));
    }
  }
  Arrived(b, map.box * 128);
}

void BulkCopy(void* to, const void* from, int bytes, void* b) {
  CheckTensorWrite(b, to, static_cast<size_t>(bytes), FUSELM_CALLER);
  CheckTensorRead(b, from, static_cast<size_t>(bytes), FUSELM_CALLER);
  std::memcpy(to, from, static_cast<size_t>(bytes));
  Arrived(b, bytes);
}

void Wgmma(float* d, int n, const uint32_t* a, uint64_t a_at, bool a_down, uint64_t b_at,
           bool b_down, int add) {
  const int lane = Lane(), g = lane / 4, t = lane % 4;
  const int warp = static_cast<int>(threadIdx.x / 32 % 4);
  const Operand ao(a_at), bo(b_at);
  if (a == nullptr) ao.Check(warp * 16, warp * 16 + 16, a_down, lane, FUSELM_CALLER);
  bo.Check(0, n, b_down, lane, FUSELM_CALLER);
  constexpr uint32_t kNone[4] = {};
  const uint32_t* const all = Exchange(a != nullptr ? a : kNone, 4);
  float rows[2][16];
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < 16; ++k) {
      rows[half][k] = a != nullptr ? Bf16Of(all[(g * 4 + k % 8 / 2) * 4 + k / 8 * 2 + half], k % 2)
                                   : ao.Value(warp * 16 + g + 8 * half, k, a_down);
    }
  }
  for (int i = 0; i < n / 2; ++i) {
    const int column = i / 4 * 8 + 2 * t + i % 2, half = i % 4 / 2;
    float sum = add ? d[i] : 0.0f;
    for (int k = 0; k < 16; ++k) sum += rows[half][k] * bo.Value(column, k, b_down);
    d[i] = sum;
  }
}

void WgmmaInt8(int32_t* d, int n, uint64_t a_at, uint64_t b_at, int add) {
  const int lane = Lane(), g = lane / 4, t = lane % 4;
  const int warp = static_cast<int>(threadIdx.x / 32 % 4);
  const Operand ao(a_at), bo(b_at);
  ao.Check(warp * 16, warp * 16 + 16, false, lane, FUSELM_CALLER);
  bo.Check(0, n, false, lane, FUSELM_CALLER);
  Exchange(&lane, 1);  // the warp is here
  const auto row_of = [](const Operand& o, int row, int8_t(&out)[32]) {
    std::memcpy(out, o.At(row, 0, false), 16);
    std::memcpy(out + 16, o.At(row, 8, false), 16);
  };
  int8_t a[2][32], b[32];
  for (int half = 0; half < 2; ++half) row_of(ao, warp * 16 + g + 8 * half, a[half]);
  for (int i = 0; i < n / 2; ++i) {
    row_of(bo, i / 4 * 8 + 2 * t + i % 2, b);
    int32_t sum = add ? d[i] : 0;
    for (int k = 0; k < 32; ++k) sum += a[i % 4 / 2][k] * b[k];
    d[i] = sum;
  }
}

void WgmmaCommit() { CheckWgmmaCommit(); }
void WgmmaWait(int under_way) { CheckWgmmaWait(under_way); }

}  // namespace fuselm::emulate
