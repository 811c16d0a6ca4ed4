// What the emulator tells the sanitizer (check.h), kept in a Checker.
#include "native/cuda/emulate/check.h"

#include <link.h>

#include <atomic>
#include <memory>

#include "native/cuda/emulate/checker.h"

namespace fuselm::emulate {
namespace {

uint64_t last_epoch = 0;

// Of the launch under way, and the thread it is on. Not thread-local, which in a library opened
// late costs a call: every load in the plugin asks.
Checker* running = nullptr;
std::atomic<void*> runner = nullptr;

// Not in the thread-local block itself, where static shared variables stand.
Checker& OwnChecker() {
  static thread_local const auto checker = std::make_unique<Checker>();
  return *checker;
}

Accessor Thread(const Checker& c, bool writes, const void* at, Kind kind = Kind::kPlain) {
  return {{c.epoch, kind, static_cast<uint64_t>(c.thread), c.clock[static_cast<size_t>(c.thread)]},
          writes,
          kind == Kind::kAtomic,
          false,
          CodeOf(at)};
}

Accessor Unit(const Checker& c, int unit, uint16_t clock, bool writes, const void* at) {
  return {{c.epoch, Kind::kPlain, static_cast<uint64_t>(kFirstUnit + unit), clock},
          writes,
          false,
          true,
          CodeOf(at)};
}

// Where the static shared variables of this thread stand: the thread-local block of the plugin.
void FindFixed(Checker& c) {
  if (c.fixed_bytes != 0) return;
  c.place_start = reinterpret_cast<uintptr_t>(&place);
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& checker = *static_cast<Checker*>(data);
        const auto start = reinterpret_cast<uintptr_t>(info->dlpi_tls_data);
        const auto here = reinterpret_cast<uintptr_t>(&place);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_TLS || start == 0 || here - start >= header.p_memsz) continue;
          checker.fixed_start = start / 4 * 4;
          checker.fixed_bytes = header.p_memsz + start % 4;
        }
        return 0;
      },
      &c);
  c.fixed = Shadow(c.fixed_start, c.fixed_bytes);
}

Mbarrier& MbarrierAt(Checker& c, const void* b, const void* at) {
  const auto known = c.mbarriers.find(reinterpret_cast<uintptr_t>(b));
  if (known == c.mbarriers.end()) {
    Fail(c, Hazard::kUninitialised, Thread(c, false, at), "an mbarrier");
  }
  return known->second;
}

}  // namespace

// ------------------------------------------------------------------------------- the scheduler

void CheckBegins(const Memory& memory, const char* what, dim3 grid, int threads) {
  Checker& c = OwnChecker();
  c.lock.lock();
  if (c.memory.dynamic != memory.dynamic) {
    c.dynamic = Shadow(reinterpret_cast<uintptr_t>(memory.dynamic), size_t{256} << 10);
  }
  c.memory = memory;
  FindFixed(c);
  c.what = what;
  c.grid = grid;
  c.threads = threads;
  c.thread = -1;
  c.launch = c.block = c.epoch = ++last_epoch;
  c.blocks.clear();
  c.device_bytes.clear();
  if (c.known.size() < static_cast<size_t>(threads)) {
    c.known.resize(static_cast<size_t>(threads));
    c.clock.resize(static_cast<size_t>(threads));
    c.committed.resize(static_cast<size_t>(threads));
  }
  running = &c;
  runner.store(__builtin_thread_pointer(), std::memory_order_relaxed);
}

void CheckEnds() {
  runner.store(nullptr, std::memory_order_relaxed);
  running = nullptr;
  OwnChecker().lock.unlock();
}

void CheckBlock(int64_t index) {
  Checker& c = *running;
  c.block = c.epoch = ++last_epoch;
  c.blocks.emplace_back(c.block, index);
  c.shared_bytes.clear();
  c.sets.Clear();
  c.mbarriers.clear();
  if (c.lasting) {
    for (Knowledge& k : c.known) k.Forget();
    for (Named& n : c.named) n.arrived.Forget(), n.passed.Forget();
    c.lasting = false;
  }
  std::fill(c.clock.begin(), c.clock.end(), uint16_t{1});
  std::fill(c.committed.begin(), c.committed.end(), uint16_t{0});
}

void CheckThread(int thread) {
  running->thread = thread;
  running->inside = false;
}

void CheckBlockBarrier() {
  Checker& c = *running;
  c.epoch = ++last_epoch;
  std::fill(c.clock.begin(), c.clock.end(), uint16_t{1});
  if (!c.lasting) return;
  const auto threads = static_cast<size_t>(c.threads);
  for (size_t i = 1; i < threads; ++i) c.known[0].JoinLasting(c.known[i]);
  for (size_t i = 1; i < threads; ++i) c.known[i].JoinLasting(c.known[0]);
}

void CheckWarpBarrier(int warp) {
  Checker& c = *running;
  static thread_local Knowledge all;
  all.Forget();
  const int first = warp * 32, end = std::min(first + 32, c.threads);
  for (c.thread = first; c.thread < end; ++c.thread) c.Announce(all);
  for (c.thread = first; c.thread < end; ++c.thread) c.Known().Join(all, c.epoch);
  c.thread = -1;
}

// --------------------------------------------------------------------------------- its threads

static bool Checking() {
  return runner.load(std::memory_order_relaxed) == __builtin_thread_pointer() &&
         running->thread >= 0 && !running->inside;
}

// Locals, arguments and threadIdx: nobody else's.
static bool IsOwn(const Checker& c, const void* p) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  return at - reinterpret_cast<uintptr_t>(c.memory.own) < c.memory.own_bytes ||
         at - c.place_start < sizeof(Place);
}

void CheckRead(const void* p, size_t bytes, const void* at) {
  if (!Checking() || IsOwn(*running, p)) return;
  Visit(*running, p, bytes, Thread(*running, false, at));
}

void CheckWrite(const void* p, size_t bytes, const void* at) {
  if (!Checking() || IsOwn(*running, p)) return;
  Visit(*running, p, bytes, Thread(*running, true, at));
}

void CheckAtomic(const void* p, size_t bytes, const void* at) {
  if (!Checking()) return;
  Visit(*running, p, bytes, Thread(*running, true, at, Kind::kAtomic));
}

void CheckCopyStarts(const void* to, const void* from, int bytes, const void* at) {
  if (!Checking()) return;
  if (bytes > 0) CheckRead(from, static_cast<size_t>(bytes), at);
  Visit(*running, to, 16, Thread(*running, true, at, Kind::kPending));
}

void CheckCopyDone(const void* to, const void* at) {
  Checker& c = *running;
  const Accessor me = Thread(c, true, at);
  // Nobody was let in since it began.
  for (size_t i = 0; i < 16; i += 4) {
    Cell& cell = c.dynamic.At(reinterpret_cast<uintptr_t>(to) + i);
    cell.write = me.access;
    cell.write_code = me.code;
  }
}

void CheckNamedBarrier(int id, bool completes) {
  Checker& c = *running;
  Named& barrier = c.named[static_cast<size_t>(id)];
  c.lasting = true;
  c.Announce(barrier.arrived);
  if (completes) barrier.passed.Join(barrier.arrived, c.epoch);
}

void CheckNamedBarrierPassed(int id) {
  Checker& c = *running;
  c.Known().Join(c.named[static_cast<size_t>(id)].passed, c.epoch);
}

void CheckMbarrierInit(const void* b, const void* at) {
  Checker& c = *running;
  CheckWrite(b, 8, at);
  c.lasting = true;
  const auto unit = static_cast<int>(c.mbarriers.size());
  if (unit == kMostMbarriers)
    FailLaunch("more mbarriers in a block than the checked build expects");
  c.mbarriers[reinterpret_cast<uintptr_t>(b)] = {kMostWarps + unit, 0, {}, {}};
}

void CheckMbarrierArrive(const void* b, bool completes, const void* at) {
  Checker& c = *running;
  Mbarrier& barrier = MbarrierAt(c, b, at);
  CheckRead(b, 8, at);
  c.Announce(barrier.arrived);
  CheckMbarrierBytes(b, completes);
}

void CheckMbarrierBytes(const void* b, bool completes) {
  if (!completes) return;
  Checker& c = *running;
  Mbarrier& barrier = MbarrierAt(c, b, nullptr);
  ++barrier.phase;
  barrier.passed.Join(barrier.arrived, c.epoch);
  barrier.passed.done[static_cast<size_t>(barrier.unit)] = barrier.phase;
}

void CheckMbarrierPassed(const void* b, const void* at) {
  Checker& c = *running;
  Mbarrier& barrier = MbarrierAt(c, b, at);
  CheckRead(b, 8, at);
  c.Known().Join(barrier.passed, c.epoch);
}

void CheckTensorRead(const void* b, const void* from, size_t bytes, const void* at) {
  Checker& c = *running;
  const Mbarrier& barrier = MbarrierAt(c, b, at);
  const auto phase = static_cast<uint16_t>(barrier.phase + 1);
  Visit(c, from, bytes, Unit(c, barrier.unit, phase, false, at));
}

void CheckTensorWrite(const void* b, const void* to, size_t bytes, const void* at) {
  Checker& c = *running;
  const Mbarrier& barrier = MbarrierAt(c, b, at);
  const auto phase = static_cast<uint16_t>(barrier.phase + 1);
  // The unit counts at the barrier: it has to have seen the barrier's beginning.
  Visit(c, b, 8, Unit(c, barrier.unit, phase, false, at));
  Visit(c, to, bytes, Unit(c, barrier.unit, phase, true, at));
}

void CheckProxyFence() {
  if (!Checking()) return;
  Checker& c = *running;
  c.lasting = true;
  Knowledge& known = c.Known();
  if (known.fenced.empty()) known.fenced.resize(kMostThreads);
  for (int i = 0; i < c.threads; ++i) {
    const uint64_t clock = i == c.thread ? c.clock[static_cast<size_t>(i)] : known.Seen(c.epoch, i);
    uint64_t& fenced = known.fenced[static_cast<size_t>(i)];
    fenced = std::max(fenced, Timestamp(c.epoch, clock));
  }
  c.Advance(c.thread);
}

void CheckWgmmaRead(const void* p, size_t bytes, const void* at) {
  Checker& c = *running;
  c.lasting = true;
  const int warp = c.thread / 32;
  const auto group = static_cast<uint16_t>(c.committed[static_cast<size_t>(c.thread)] + 1);
  Visit(c, p, bytes, Unit(c, warp, group, false, at));
}

void CheckWgmmaCommit() { ++running->committed[static_cast<size_t>(running->thread)]; }

void CheckWgmmaWait(int under_way) {
  Checker& c = *running;
  const int done = c.committed[static_cast<size_t>(c.thread)] - under_way;
  uint16_t& known = c.Known().done[static_cast<size_t>(c.thread / 32)];
  known = std::max(known, static_cast<uint16_t>(std::max(done, 0)));
}

}  // namespace fuselm::emulate
