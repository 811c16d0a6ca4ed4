// Blocks on the CPU: one fiber per thread of a block, changed in user space (x86-64 System V).
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>
#include <vector>

#include "native/core/error.h"
#include "native/cuda/emulate/check.h"
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
constexpr int kMostThreads = 1024;
constexpr size_t kSlotBytes = 64;
constexpr size_t kMargin = 1 << 20;  // on both sides of dynamic shared memory
constexpr size_t kMostShared = 256 << 10;
constexpr int64_t kMostPolls = 1 << 20;  // of a block

enum class State : uint8_t { kReady, kPolling, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Copy {
  void* to;
  const void* from;
  int bytes;  // of 16, the rest zeros
};

struct Fiber {
  void* sp = nullptr;
  bool started = false;
  bool syncs = false;  // at __syncwarp, which orders memory; other intrinsics do not
  State state = State::kReady;
  int parity = 0;
  std::deque<std::vector<Copy>> copies;  // committed groups, then the open one
};

struct WarpSlots {
  alignas(64) std::byte bytes[2][kWarp * kSlotBytes];
};

struct Machine {
  std::vector<Fiber> fibers;
  // Slots of every warp, then the threads' stacks, then the margins and shared memory between them;
  // what nobody touched takes no memory.
  std::byte* memory = nullptr;
  void* scheduler = nullptr;
  int current = -1;  // none: the scheduler runs
  int threads = 0;
  void (*body)(void*) = nullptr;
  void* closure = nullptr;
  std::string failure;
  struct Named {
    int arrived = 0;
    int64_t phase = 0;
  } named[16];

  static constexpr size_t kSlots = sizeof(WarpSlots) * (kMostThreads / kWarp);
  static constexpr size_t kOwn = kSlots + kStackBytes * kMostThreads;
  static constexpr size_t kAll = kOwn + kMargin + kMostShared + kMargin;

  void Take() {
    if (memory != nullptr) return;
    void* taken = mmap(nullptr, kAll, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (taken == MAP_FAILED) throw Error(ErrorCode::kOutOfMemory, "emulator: no memory");
    memory = static_cast<std::byte*>(taken);
  }
  std::byte* SlotsOf(int warp) { return memory + sizeof(WarpSlots) * static_cast<size_t>(warp); }
  std::byte* EndOfStack(int thread) {
    return memory + kSlots + kStackBytes * (static_cast<size_t>(thread) + 1);
  }
  std::byte* Shared() { return memory + kOwn + kMargin; }
  ~Machine() {
    if (memory != nullptr) munmap(memory, kAll);
  }
};
static_assert(Machine::kSlots % 4096 == 0 && Machine::kOwn % 1024 == 0);

Machine& TheMachine() {
  static thread_local const auto machine = std::make_unique<Machine>();
  return *machine;
}

[[noreturn]] void Refuse(const char* what, const std::string& why) {
  throw Error(ErrorCode::kDevice, std::string("cuda: ") + what + ": " + why);
}

void Yield(State state) {
  Machine& m = TheMachine();
  Fiber& f = m.fibers[static_cast<size_t>(m.current)];
  f.state = state;
  fuselm_switch(&f.sp, m.scheduler);
}

[[noreturn]] void Entry() {
  Machine& m = TheMachine();
  m.body(m.closure);
  Yield(State::kDone);
  std::abort();
}

void Start(Fiber& f, std::byte* end_of_stack) {
  // Six registers, then the return address; at Entry the stack is as after a call.
  auto* top = reinterpret_cast<void**>(end_of_stack - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.sp = top;
  f.started = true;
}

void Resume(Machine& m, int thread) {
  Fiber& f = m.fibers[static_cast<size_t>(thread)];
  if (!f.started) Start(f, m.EndOfStack(thread));
  m.current = thread;
  place.thread_index = {static_cast<unsigned>(thread), 0, 0};
  f.state = State::kReady;
  CheckThread(thread);
  fuselm_switch(&m.scheduler, f.sp);
  CheckThread(-1);
  m.current = -1;
}

// In which order blocks, warps and lanes run: forwards, backwards, or drawn.
class Order {
 public:
  explicit Order(uint64_t seed) : random_(seed != 0), state_(seed) {}
  bool random() const { return random_; }
  uint32_t Draw(uint32_t below) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>((state_ >> 33) % below);
  }
  // 0 to count - 1, at most 32.
  std::array<uint8_t, kWarp> Of(int count, bool backwards) {
    std::array<uint8_t, kWarp> order{};
    for (int i = 0; i < count; ++i) {
      order[static_cast<size_t>(i)] = static_cast<uint8_t>(backwards ? count - 1 - i : i);
    }
    for (int i = count - 1; random_ && i > 0; --i) {
      std::swap(order[static_cast<size_t>(i)], order[Draw(static_cast<uint32_t>(i) + 1)]);
    }
    return order;
  }

 private:
  const bool random_;
  uint64_t state_;
};

// Runs a warp until all its lanes are done or at the block's barrier.
void RunWarp(Machine& m, int warp, bool backwards, Order& order) {
  const int first = warp * kWarp, end = std::min(first + kWarp, m.threads);
  for (int i = first; i < end; ++i) {
    if (m.fibers[i].state == State::kPolling) m.fibers[i].state = State::kReady;
  }
  for (;;) {
    const auto lanes = order.Of(end - first, backwards);
    for (int i = first; i < end; ++i) {
      const int thread = first + lanes[static_cast<size_t>(i - first)];
      if (m.fibers[thread].state == State::kReady) Resume(m, thread);
      if (!m.failure.empty()) return;
    }
    int at_warp = 0, syncs = 0, at_block = 0, done = 0, polling = 0;
    for (int i = first; i < end; ++i) {
      const State s = m.fibers[i].state;
      polling += s == State::kPolling;
      at_warp += s == State::kAtWarpBarrier;
      syncs += s == State::kAtWarpBarrier && m.fibers[i].syncs;
      at_block += s == State::kAtBlockBarrier;
      done += s == State::kDone;
    }
    if (at_warp == 0 || polling > 0) return;  // what is polled for is another warp's to do
    if (at_block + done > 0 || end - first < kWarp) {
      m.failure = "a warp intrinsic was reached by " + std::to_string(at_warp) + " of " +
                  std::to_string(end - first) + " lanes (warp " + std::to_string(warp) + ")";
      return;
    }
    if (syncs != 0 && syncs != at_warp) {
      m.failure = "lanes of warp " + std::to_string(warp) + " are at different warp intrinsics";
      return;
    }
    if (syncs != 0) CheckWarpBarrier(warp);
    for (int i = first; i < end; ++i) m.fibers[i].state = State::kReady;
  }
}

void RunBlock(Machine& m, bool backwards, Order& order) {
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
    const auto turns = order.Of(warps, backwards);
    for (int w = 0; w < warps; ++w) {
      if (order.random() && order.Draw(4) == 0) continue;  // lags behind
      RunWarp(m, turns[static_cast<size_t>(w)], backwards, order);
      if (!m.failure.empty()) return;
    }
    int ready = 0, waiting = 0, done = 0, polling = 0;
    for (int t = 0; t < m.threads; ++t) {
      ready += m.fibers[t].state == State::kReady;  // of a warp that lags behind
      polling += m.fibers[t].state == State::kPolling;
      waiting += m.fibers[t].state == State::kAtBlockBarrier;
      done += m.fibers[t].state == State::kDone;
    }
    if (done == m.threads) return;
    if (ready > 0) continue;
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
    CheckBlockBarrier();
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
         void (*body)(void*), void* closure, uint64_t seed) {
  CheckLaunch(grid, threads, shared_bytes, shared_limit, what);
  Machine& m = TheMachine();
  m.Take();
  if (m.fibers.size() < static_cast<size_t>(threads)) m.fibers.resize(static_cast<size_t>(threads));
  if (shared_bytes > static_cast<int64_t>(kMostShared))
    Refuse(what, "more shared memory than emulated");
  m.threads = threads;
  m.body = body;
  m.closure = closure;
  m.failure.clear();
  place.grid = grid;
  place.block = dim3(static_cast<unsigned>(threads));
  const auto shared = static_cast<size_t>(shared_bytes);
  CheckBegins({m.memory, Machine::kOwn, m.Shared(), shared, kMargin}, what, grid, threads);
  struct End {
    ~End() { CheckEnds(); }
  } const end;
  Order order(seed);
  const int64_t x = grid.x, y = grid.y, blocks = x * y * grid.z;
  // i to (i * stride + start) % blocks is a permutation.
  int64_t stride = 1, start = 0;
  if (order.random()) {
    const auto below = static_cast<uint32_t>(std::min<int64_t>(blocks, INT32_MAX));
    start = order.Draw(below);
    do {
      stride = 1 + order.Draw(below);
    } while (std::gcd(stride, blocks) != 1);
  }
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t block = (i * stride + start) % blocks;
    place.block_index = {static_cast<unsigned>(block % x), static_cast<unsigned>(block / x % y),
                         static_cast<unsigned>(block / x / y)};
    std::memset(m.Shared(), 0xff, std::min(shared + 1024, kMostShared));
    CheckBlock(block);
    RunBlock(m, i % 2 == 1, order);
    if (!m.failure.empty()) Refuse(what, m.failure);
  }
}

void* DynamicShared() { return TheMachine().Shared(); }

unsigned SharedAddress(const void* p) {
  return static_cast<unsigned>(static_cast<const std::byte*>(p) -
                               static_cast<const std::byte*>(DynamicShared()));
}

void* SharedAt(unsigned address) { return static_cast<std::byte*>(DynamicShared()) + address; }

void Poll() { Yield(State::kPolling); }

void NamedBarrier(int id, int threads, bool waits) {
  Machine::Named& barrier = TheMachine().named[id];
  const int64_t phase = barrier.phase;
  const bool last = ++barrier.arrived == threads;
  CheckNamedBarrier(id, last);
  if (last) {
    barrier.arrived = 0;
    ++barrier.phase;
  }
  while (waits && barrier.phase == phase) Poll();
  if (waits) CheckNamedBarrierPassed(id);
}

void SyncBlock() { Yield(State::kAtBlockBarrier); }

void FailLaunch(const char* why) {
  Machine& m = TheMachine();
  if (m.current < 0) throw Error(ErrorCode::kDevice, std::string("cuda: ") + why);
  m.failure = why;
  Yield(State::kDone);
  std::abort();
}

void CheckMask(unsigned mask) {
  if (mask != 0xffffffffu) FailLaunch("a warp intrinsic with part of the mask");
}

void SyncWarp(unsigned mask) {
  CheckMask(mask);
  Machine& m = TheMachine();
  m.fibers[static_cast<size_t>(m.current)].syncs = true;
  Yield(State::kAtWarpBarrier);
}

const void* ExchangeBytes(const void* mine, size_t bytes) {
  Machine& m = TheMachine();
  const int thread = m.current;
  Fiber& f = m.fibers[static_cast<size_t>(thread)];
  // Two sets in turn: nobody can be two exchanges ahead of a lane that still reads.
  f.parity ^= 1;
  std::byte* all = m.SlotsOf(thread / kWarp) + f.parity * sizeof(WarpSlots) / 2;
  if (bytes > kSlotBytes) std::abort();
  std::memcpy(all + static_cast<size_t>(thread % kWarp) * bytes, mine, bytes);
  f.syncs = false;
  Yield(State::kAtWarpBarrier);
  return all;
}

void CopyLater(void* to, const void* from, int bytes) {
  CheckCopyStarts(to, from, bytes, __builtin_return_address(0));
  Fiber& f = TheMachine().fibers[static_cast<size_t>(TheMachine().current)];
  if (f.copies.empty()) f.copies.emplace_back();
  f.copies.back().push_back({to, from, bytes});
}

void CommitCopies() {
  Fiber& f = TheMachine().fibers[static_cast<size_t>(TheMachine().current)];
  if (f.copies.empty()) f.copies.emplace_back();
  f.copies.emplace_back();
}

void WaitCopies(int under_way) {
  Fiber& f = TheMachine().fibers[static_cast<size_t>(TheMachine().current)];
  while (f.copies.size() > static_cast<size_t>(under_way) + 1) {
    for (const Copy& c : f.copies.front()) {
      CheckCopyDone(c.to, __builtin_return_address(0));
      std::memset(c.to, 0, 16);
      std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
    }
    f.copies.pop_front();
  }
}

}  // namespace fuselm::emulate
