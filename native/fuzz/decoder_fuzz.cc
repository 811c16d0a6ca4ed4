// Arbitrary words through Submit and execution, under a small memory limit. Most inputs are read as
// a script of records whose fields come from the input, so that valid prefixes survive; some are
// raw words.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "native/core/runtime.h"

namespace fuselm {
namespace {

constexpr int64_t kMemoryLimit = 8 << 20;
constexpr int64_t kMostWork = 1 << 12;  // elements a toy looks at: the input must not buy hours

// Touches the elements of every argument, so that a view outside its memory is a report of
// AddressSanitizer; both ends of a view that has more than it looks at.
void Touch(Invocation& inv) {
  volatile uint8_t sink = 0;
  for (size_t i = 0; i < inv.size(); ++i) {
    if (!inv.has(i)) continue;
    const View& v = inv[i];
    const auto item = static_cast<int64_t>(ItemSize(v.dtype));
    const int64_t n = v.numel();
    for (int64_t k = 0; k < std::min(n, kMostWork); ++k) {
      for (const int64_t index : {k, n - 1 - k}) {
        int64_t rest = index, at = 0;
        for (int d = v.rank - 1; d >= 0; --d) {
          at += rest % v.shape[d] * v.stride[d];
          rest /= v.shape[d];
        }
        const uint8_t* byte = static_cast<const uint8_t*>(v.data) + at * item;
        sink = static_cast<uint8_t>(sink + byte[0] + byte[item - 1]);
      }
    }
  }
  auto* space = inv.Workspace<uint8_t>(inv.size() * 100);
  inv.ReserveScratch(64);
  inv.ParallelFor(4, [&](int64_t tile, int worker) {
    space[tile] = *inv.Scratch<uint8_t>(worker, 64) = static_cast<uint8_t>(tile);
  });
  if (inv.size() % 4 == 2 && inv.has(1) && inv[1].rank == 3) {
    throw Error(ErrorCode::kValue, "the toy failed");
  }
}

const int kTouch = RegisterKernel({"touch(x) -> (y) [a]", kAnyDType, Touch, Level::kGeneric});
const int kTouchGroup = RegisterKernel(
    {"touch_group(x?, s!, ...(p!, low!?, g)) -> (y?)", kAnyDType, Touch, Level::kGeneric, true});

struct Input {
  const uint8_t* data;
  size_t left;
  uint32_t Byte() {
    if (left == 0) return 0;
    --left;
    return *data++;
  }
  // Mostly small, sometimes anything.
  uint32_t Word() {
    const uint32_t b = Byte();
    if (b < 0xf0) return b % 40;
    const uint32_t low = Byte(), high = Byte();
    return low | high << 24 | (b & 1) << 16;
  }
};

class Script {
 public:
  explicit Script(Input& in) : in_(in) {}
  std::vector<uint32_t> words;

  void Record() {
    const size_t start = words.size();
    const uint32_t kind = in_.Byte() % 16;
    const bool control = kind <= kMend;
    words.insert(words.end(), {0, control ? kind : kFirstKernelCode + kind % 2, in_.Byte() % 3});
    if (control) {
      Control(kind);
    } else {
      Kernel(kind % 2 == 1);
    }
    words[start] = static_cast<uint32_t>(words.size() - start);
    if (in_.Byte() == 0xff) words[start + in_.Byte() % (words.size() - start)] = in_.Word();
  }

 private:
  void Push(uint32_t word) { words.push_back(word); }
  void Wide() {
    Push(in_.Word());
    Push(in_.Byte() > 250 ? in_.Word() : 0);
  }

  void Control(uint32_t kind) {
    if ((kind >= kAlloc && kind <= kRead) || kind == kMend) Push(1 + in_.Byte() % 6);
    switch (kind) {
      case kAlloc:
        Push(in_.Word() * 16);
        Push(in_.Byte() > 250 ? in_.Word() : 0);
        Push(in_.Byte());
        break;
      case kWrite: {
        Wide();
        const uint32_t bytes = in_.Byte() % 70;
        Push(bytes);
        for (uint32_t i = 0; i < (bytes + 3) / 4; ++i) Push(in_.Byte());
        break;
      }
      case kRead: Wide(); [[fallthrough]];
      case kUpload: Wide(); [[fallthrough]];
      case kFence:
      case kSignal:
      case kWait:
      case kMark: Push(in_.Byte() % 6); break;
      default: break;
    }
  }

  // The device lists kernels by signature: touch, then touch_group.
  void Kernel(bool group) {
    const uint32_t tensors = group ? 3 + 3 * (in_.Byte() % 4) : 2;
    Push(tensors | (group ? 0 : 1u << 16));
    for (uint32_t t = 0; t < tensors; ++t) Tensor(t);
    if (!group) {
      Push(in_.Byte());
      Push(in_.Byte());
    }
  }

  // Most are contiguous views of a buffer of their own, so that commands run; the rest anything.
  void Tensor(uint32_t t) {
    const uint32_t how = in_.Byte();
    const uint32_t id = how < 160 ? 1 + t % 5 : in_.Byte() % 8;
    Push(id);
    if (id == 0) return;
    const uint32_t rank = how % 4;
    Push((1 + how % 8) | rank << 8);
    if (how % 5 == 4) {
      for (uint32_t r = 0; r < 2 * rank + 1; ++r) Wide();
      return;
    }
    Push(how % 7 == 6 ? in_.Byte() : 0);
    Push(0);
    uint32_t shape[4], stride = 1;
    for (uint32_t r = 0; r < rank; ++r) {
      shape[r] = in_.Byte() % 6;
      Push(shape[r]);
      Push(0);
    }
    const size_t at = words.size();
    words.resize(at + 2 * rank);
    for (uint32_t r = rank; r-- > 0; stride *= shape[r]) words[at + 2 * r] = stride;
  }

  Input& in_;
};

// Five buffers of 16 to 4096 bytes, unless the input wants to begin with none.
void Preamble(Input& in, std::vector<uint32_t>& words) {
  const uint32_t size = in.Byte();
  for (uint32_t id = 1; id <= 5 && size < 240; ++id) {
    words.insert(words.end(), {7, kAlloc, 0, id, 16u << (size + id) % 9, 0, 0});
  }
}

void Submit(Environment& environment, uint32_t queue, std::vector<uint32_t>& words) {
  try {
    environment.Submit(queue, words);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kFormat) std::abort();
  }
  words.clear();
}

}  // namespace
}  // namespace fuselm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fuselm;
  static auto* device =
      new std::shared_ptr<Device>(Device::Open({.threads = 2, .memory_limit = kMemoryLimit}));
  uint8_t host[4][256] = {};
  {
    Environment environment(*device, nullptr);
    environment.CreateQueue(0);
    environment.CreateQueue(1);
    for (uint32_t token = 0; token < 4; ++token) {
      environment.RegisterHost(token, host[token], 32ull << token);
    }
    Input in{data, size};
    if (in.Byte() % 8 == 0) {
      std::vector<uint32_t> words(in.left / 4);
      if (!words.empty()) std::memcpy(words.data(), in.data, words.size() * 4);
      Submit(environment, 0, words);
    } else {
      Script script(in);
      Preamble(in, script.words);
      Submit(environment, 0, script.words);
      while (in.left > 0) {
        script.Record();
        const uint32_t end = in.Byte();
        if (end % 4 == 0) Submit(environment, end % 8 == 0 ? 1 : 0, script.words);
        if (end == 0xfe) environment.Cancel(1);
        if (end == 0xfd) (*device)->FailAllocation(1 + in.Byte() % 3);
      }
      Submit(environment, 0, script.words);
    }
    // Most run to their end; those that wait for a signal, or are left, are closed over.
    for (int i = 0; i < 50 && environment.pending_commands() > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(5));
    }
  }
  (*device)->FailAllocation(0);
  // That the inputs get as far as running kernels is part of what a log must show.
  static uint32_t runs = 0;
  if (++runs % 8192 == 0) {
    for (const DeviceKernel& k : (*device)->kernels()) {
      std::fprintf(stderr, "%u inputs: %lld executions of %s\n", runs,
                   static_cast<long long>(k.executions), k.signature.c_str());
    }
  }
  const MemoryStats stats = (*device)->memory();
  if (stats.live_bytes != 0 || stats.live_buffers != 0) std::abort();
  return 0;
}
