// Blocks on the CPU: one fiber per thread of a block, changed in user space (x86-64 System V).
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

#include "native/core/error.h"
#include "native/cuda/emulate/cuda_runtime.h"

#if !defined(__x86_64__)
#error "the emulator changes fibers in x86-64 assembly"
#endif

// Saves what a callee must keep, stores the stack pointer through the first argument, continues at
// the second. The x87 and SSE control words are never changed here.
extern "C" void fuselm_switch(void** from, void* to);
asm(R"(
.text
.type fuselm_switch,@function
fuselm_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fuselm_switch,.-fuselm_switch
)");

namespace fuselm::emulate {

thread_local Place place;

namespace {

constexpr size_t kStackBytes = 256 << 10;  // touched pages only are real
constexpr int kWarp = 32;
constexpr size_t kSlotBytes = 64;
constexpr int64_t kMostPolls = 1 << 20;  // of a block

enum class State : uint8_t { kReady, kPolling, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Copy {
  void* to;
  const void* from;
  int bytes;  // of 16, the rest zeros
};

struct Fiber {
  std::byte* stack = nullptr;
  void* sp = nullptr;
  bool started = false;
  State state = State::kReady;
  int parity = 0;
  std::deque<std::vector<Copy>> copies;  // committed groups, then the open one
};

struct WarpSlots {
  alignas(64) std::byte bytes[2][kWarp * kSlotBytes];
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<WarpSlots> slots;
  std::vector<std::byte> shared;
  void* scheduler = nullptr;
  int current = 0;
  int threads = 0;
  void (*body)(void*) = nullptr;
  void* closure = nullptr;
  std::string failure;
  struct Named {
    int arrived = 0;
    int64_t phase = 0;
  } named[16];

  ~Machine() {
    for (Fiber& f : fibers) {
      if (f.stack != nullptr) munmap(f.stack, kStackBytes);
    }
  }
};

Machine& TheMachine() {
  static thread_local Machine machine;
  return machine;
}

[[noreturn]] void Refuse(const char* what, const std::string& why) {
  throw Error(ErrorCode::kDevice, std::string("cuda: ") + what + ": " + why);
}

void Yield(State state) {
  Machine& m = TheMachine();
  Fiber& f = m.fibers[m.current];
  f.state = state;
  fuselm_switch(&f.sp, m.scheduler);
}

[[noreturn]] void Entry() {
  Machine& m = TheMachine();
  m.body(m.closure);
  Yield(State::kDone);
  std::abort();
}

void Start(Fiber& f) {
  if (f.stack == nullptr) {
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw Error(ErrorCode::kOutOfMemory, "emulator: no stack");
    f.stack = static_cast<std::byte*>(stack);
  }
  // Six registers, then the return address; at Entry the stack is as after a call.
  auto* top = reinterpret_cast<void**>(f.stack + kStackBytes - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.sp = top;
  f.started = true;
}

void Resume(Machine& m, int thread) {
  Fiber& f = m.fibers[thread];
  if (!f.started) Start(f);
  m.current = thread;
  place.thread_index = {static_cast<unsigned>(thread), 0, 0};
  f.state = State::kReady;
  fuselm_switch(&m.scheduler, f.sp);
}

// Runs a warp until all its lanes are done or at the block's barrier.
void RunWarp(Machine& m, int warp, bool backwards) {
  const int first = warp * kWarp, end = std::min(first + kWarp, m.threads);
  for (int i = first; i < end; ++i) {
    if (m.fibers[i].state == State::kPolling) m.fibers[i].state = State::kReady;
  }
  for (;;) {
    for (int i = first; i < end; ++i) {
      const int thread = backwards ? end - 1 - (i - first) : i;
      if (m.fibers[thread].state == State::kReady) Resume(m, thread);
    }
    int at_warp = 0, at_block = 0, done = 0, polling = 0;
    for (int i = first; i < end; ++i) {
      const State s = m.fibers[i].state;
      polling += s == State::kPolling;
      at_warp += s == State::kAtWarpBarrier;
      at_block += s == State::kAtBlockBarrier;
      done += s == State::kDone;
    }
    if (at_warp == 0 || polling > 0) return;  // what is polled for is another warp's to do
    if (at_block + done > 0 || end - first < kWarp) {
      m.failure = "a warp intrinsic was reached by " + std::to_string(at_warp) + " of " +
                  std::to_string(end - first) + " lanes (warp " + std::to_string(warp) + ")";
      return;
    }
    for (int i = first; i < end; ++i) m.fibers[i].state = State::kReady;
  }
}

void RunBlock(Machine& m, bool backwards) {
  for (Machine::Named& barrier : m.named) barrier = {};
  const int warps = (m.threads + kWarp - 1) / kWarp;
  for (int t = 0; t < m.threads; ++t) {
    Fiber& f = m.fibers[t];
    f.started = false;
    f.state = State::kReady;
    f.parity = 0;
    f.copies.clear();
  }
  for (int64_t idle = 0;;) {
    for (int w = 0; w < warps; ++w) {
      RunWarp(m, backwards ? warps - 1 - w : w, backwards);
      if (!m.failure.empty()) return;
    }
    int waiting = 0, done = 0, polling = 0;
    for (int t = 0; t < m.threads; ++t) {
      polling += m.fibers[t].state == State::kPolling;
      waiting += m.fibers[t].state == State::kAtBlockBarrier;
      done += m.fibers[t].state == State::kDone;
    }
    if (done == m.threads) return;
    if (polling > 0) {
      if (++idle < kMostPolls) continue;
      m.failure = std::to_string(polling) + " threads wait for a barrier in vain";
      return;
    }
    if (done > 0) {
      m.failure = "__syncthreads was reached by " + std::to_string(waiting) + " of " +
                  std::to_string(m.threads) + " threads";
      return;
    }
    for (int t = 0; t < m.threads; ++t) m.fibers[t].state = State::kReady;
  }
}

}  // namespace

void CheckLaunch(dim3 grid, int threads, int64_t shared_bytes, int64_t shared_limit,
                 const char* what) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    Refuse(what, "a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
                     std::to_string(grid.z) + " blocks");
  }
  if (threads < 1 || threads > 1024) Refuse(what, std::to_string(threads) + " threads in a block");
  if (shared_bytes > shared_limit) {
    Refuse(what, std::to_string(shared_bytes) + " bytes of shared memory, the device has " +
                     std::to_string(shared_limit));
  }
}

void Run(dim3 grid, int threads, int64_t shared_bytes, int64_t shared_limit, const char* what,
         void (*body)(void*), void* closure) {
  CheckLaunch(grid, threads, shared_bytes, shared_limit, what);
  Machine& m = TheMachine();
  if (m.fibers.size() < static_cast<size_t>(threads)) {
    m.fibers.resize(threads);
    m.slots.resize((threads + kWarp - 1) / kWarp);
  }
  m.threads = threads;
  m.body = body;
  m.closure = closure;
  m.failure.clear();
  place.grid = grid;
  place.block = dim3(static_cast<unsigned>(threads));
  unsigned count = 0;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        place.block_index = {x, y, z};
        m.shared.assign(static_cast<size_t>(shared_bytes) + 2048, std::byte{0xff});
        RunBlock(m, count++ % 2 == 1);
        if (!m.failure.empty()) Refuse(what, m.failure);
      }
    }
  }
}

void* DynamicShared() {
  const auto at = reinterpret_cast<uintptr_t>(TheMachine().shared.data());
  return reinterpret_cast<void*>((at + 1023) / 1024 * 1024);
}

unsigned SharedAddress(const void* p) {
  return static_cast<unsigned>(static_cast<const std::byte*>(p) -
                               static_cast<const std::byte*>(DynamicShared()));
}

void* SharedAt(unsigned address) { return static_cast<std::byte*>(DynamicShared()) + address; }

void Poll() { Yield(State::kPolling); }

void NamedBarrier(int id, int threads, bool waits) {
  Machine::Named& barrier = TheMachine().named[id];
  const int64_t phase = barrier.phase;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.phase;
  }
  while (waits && barrier.phase == phase) Poll();
}

void SyncBlock() { Yield(State::kAtBlockBarrier); }

void CheckMask(unsigned mask) {
  if (mask != 0xffffffffu) {
    Machine& m = TheMachine();
    m.failure = "a warp intrinsic with part of the mask";
    Yield(State::kDone);
  }
}

void SyncWarp(unsigned mask) {
  CheckMask(mask);
  Yield(State::kAtWarpBarrier);
}

const void* ExchangeBytes(const void* mine, size_t bytes) {
  Machine& m = TheMachine();
  const int thread = m.current;
  Fiber& f = m.fibers[thread];
  // Two sets in turn: nobody can be two exchanges ahead of a lane that still reads.
  f.parity ^= 1;
  std::byte* all = m.slots[thread / kWarp].bytes[f.parity];
  if (bytes > kSlotBytes) std::abort();
  std::memcpy(all + static_cast<size_t>(thread % kWarp) * bytes, mine, bytes);
  Yield(State::kAtWarpBarrier);
  return all;
}

void CopyLater(void* to, const void* from, int bytes) {
  Fiber& f = TheMachine().fibers[TheMachine().current];
  if (f.copies.empty()) f.copies.emplace_back();
  f.copies.back().push_back({to, from, bytes});
}

void CommitCopies() {
  Fiber& f = TheMachine().fibers[TheMachine().current];
  if (f.copies.empty()) f.copies.emplace_back();
  f.copies.emplace_back();
}

void WaitCopies(int under_way) {
  Fiber& f = TheMachine().fibers[TheMachine().current];
  while (f.copies.size() > static_cast<size_t>(under_way) + 1) {
    for (const Copy& c : f.copies.front()) {
      std::memset(c.to, 0, 16);
      std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
    }
    f.copies.pop_front();
  }
}

}  // namespace fuselm::emulate
