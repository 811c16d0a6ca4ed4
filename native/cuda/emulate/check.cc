// The rules of check.h over the shadow of memory (shadow.h) and the clocks of threads (order.h).
#include "native/cuda/emulate/check.h"

#include <link.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "native/cuda/emulate/order.h"
#include "native/cuda/emulate/report.h"

namespace fuselm::emulate {
namespace {

// Device memory, and whatever is checked at all, is one thread's at a time: that of the launch.
std::mutex mutex;
uint64_t last_epoch = 0;

struct Allocation {
  uintptr_t start;
  size_t bytes;
  Shadow shadow;
};
std::map<uintptr_t, Allocation>& Allocations() {
  static auto* all = new std::map<uintptr_t, Allocation>;
  return *all;
}
// By page: where the last access to it was found.
constexpr size_t kFound = 4096;
Allocation* found[kFound];

struct Mbarrier {
  int unit;
  uint16_t phase = 0;
  Knowledge arrived, passed;  // of the phase under way, of the last complete one
};
struct Named {
  Knowledge arrived, passed;
};

struct Accessor {
  Access access;
  bool writes, atomic, unit;
  uint32_t code;
};

// Of one operating system thread, while it runs a launch.
struct Checker {
  std::unique_lock<std::mutex> lock{mutex, std::defer_lock};
  Memory memory{};
  std::string what;
  dim3 grid;
  int threads = 0, thread = -1;
  bool inside = false;                        // what the checker itself touches is nobody's access
  uint64_t launch = 0, block = 0, epoch = 0;  // where each began
  int64_t block_index = 0;
  std::vector<std::pair<uint64_t, int64_t>> blocks;  // by the epoch they began
  Shadow dynamic, fixed;
  uintptr_t fixed_start = 0, place_start = 0;
  size_t fixed_bytes = 0;
  std::vector<Bytes> device_bytes, shared_bytes;
  Sets sets;
  std::vector<Knowledge> known;
  std::vector<uint16_t> clock, committed;  // by thread: announced; groups of wgmma
  std::unordered_map<uintptr_t, Mbarrier> mbarriers;
  std::array<Named, 16> named;
  bool lasting = false;  // asynchronous units or proxies are in use

  Knowledge& Known() { return known[static_cast<size_t>(thread)]; }
  // What others may come to know of the running thread.
  void Announce(Knowledge& to) {
    uint16_t& now = clock[static_cast<size_t>(thread)];
    to.Join(Known(), epoch);
    to.See(epoch, thread, now);
    Advance(thread);
  }
  void Advance(int of) {
    if (++clock[static_cast<size_t>(of)] == UINT16_MAX) {
      FailLaunch("more barriers without one of the whole block than the checked build can count");
    }
  }
};

// Of the launch under way, and the thread it is on. Not thread-local, which in a library opened
// late costs a call: every load in the plugin asks.
Checker* running = nullptr;
std::atomic<void*> runner = nullptr;

// Not in the thread-local block itself, where static shared variables stand.
Checker& OwnChecker() {
  static thread_local const auto checker = std::make_unique<Checker>();
  return *checker;
}

// ------------------------------------------------------------------------------------- rules

bool IsOrdered(const Checker& c, const Access& before) {
  const auto who = static_cast<int>(before.who);
  const Knowledge& known = c.known[static_cast<size_t>(c.thread)];
  if (who >= kFirstUnit) return known.done[static_cast<size_t>(who - kFirstUnit)] >= before.clock;
  return before.epoch < c.epoch || who == c.thread || known.Seen(c.epoch, who) >= before.clock;
}

// Why `me` must not happen after `before`, a write or not, of this launch; kNone where it may.
Hazard Against(const Checker& c, const Access& before, bool wrote, const Accessor& me) {
  if (before.epoch < c.block) {
    const bool atomic = before.kind == Kind::kAtomic || (wrote && before.kind == Kind::kSet);
    return atomic && me.atomic ? Hazard::kNone : Hazard::kOtherBlock;
  }
  if (before.kind == Kind::kPending) return Hazard::kCopyUnderWay;
  if (before.kind == Kind::kAtomic && me.atomic) return Hazard::kNone;
  if (!IsOrdered(c, before)) {
    return before.who >= kFirstUnit ? Hazard::kUnitUnderWay : Hazard::kRace;
  }
  if (me.unit && wrote && before.who < kFirstUnit) {
    const auto& fenced = c.known[static_cast<size_t>(c.thread)].fenced;
    if (before.who >= fenced.size() || fenced[before.who] < Timestamp(before.epoch, before.clock)) {
      return Hazard::kProxy;
    }
  }
  return Hazard::kNone;
}

[[noreturn]] void Fail(const Checker& c, Hazard hazard, const Accessor& me,
                       const std::string& place, const Access* before = nullptr, bool wrote = false,
                       uint32_t code = 0) {
  const auto name = [&](const Access& a) {
    const auto who = static_cast<int>(a.who);
    std::string text = who < kFirstUnit       ? "thread " + std::to_string(who)
                       : who < kFirstMbarrier ? "wgmma of warp " + std::to_string(who - kFirstUnit)
                                              : "a tensor copy";
    int64_t block = 0;
    for (const auto& [epoch, index] : c.blocks) {
      if (epoch <= a.epoch) block = index;
    }
    const auto x = static_cast<int64_t>(c.grid.x), y = static_cast<int64_t>(c.grid.y);
    return text + " of block (" + std::to_string(block % x) + ", " + std::to_string(block / x % y) +
           ", " + std::to_string(block / x / y) + ")";
  };
  std::string text = Describe(hazard) + ": " + place + "\n  " + (me.writes ? "written" : "read") +
                     (me.atomic ? " atomically" : "") + " by " + name(me.access) + LineOf(me.code);
  if (before != nullptr) {
    text += std::string("\n  ") + (wrote ? "written" : "read") +
            (before->kind == Kind::kAtomic ? " atomically" : "") + " before by " + name(*before) +
            LineOf(code);
  }
  FailLaunch(text.c_str());
}

struct Region {
  bool shared;
  const char* name;
  uintptr_t start;
  size_t bytes;
};

std::string PlaceText(const Region& region, uintptr_t at, size_t bytes) {
  return std::to_string(bytes) + " bytes at " +
         std::to_string(static_cast<int64_t>(at) - static_cast<int64_t>(region.start)) + " of " +
         region.name + " memory of " + std::to_string(region.bytes) + " bytes";
}

// Whether `holds` of every access of a node.
template <class Holds>
bool ForEach(const Sets::Node& node, const Holds& holds) {
  for (uint32_t left = node.lanes; left != 0; left &= left - 1) {
    Access access = node.access;
    if (access.who < kFirstUnit) access.who += static_cast<uint64_t>(std::countr_zero(left));
    if (!holds(access)) return false;
  }
  return true;
}

void Judge(const Checker& c, const Access& before, uint32_t code, bool wrote, const Accessor& me,
           const Region& region, uintptr_t at, size_t bytes) {
  if (before.kind == Kind::kSet && before.epoch >= c.block) {
    for (uint32_t i = before.index(); i != 0; i = c.sets[i].parent) {
      ForEach(c.sets[i], [&](const Access& access) {
        Judge(c, access, c.sets[i].code, wrote, me, region, at, bytes);
        return true;
      });
    }
    return;
  }
  const Hazard hazard = Against(c, before, wrote, me);
  if (hazard != Hazard::kNone) {
    Fail(c, hazard, me, PlaceText(region, at, bytes), &before, wrote, code);
  }
}

// Readers (or atomics) without an order among them. Who is ordered before `me` drops out: what
// comes after `me` comes after that one, too.
Access Gather(Checker& c, const Access& before, uint32_t before_code, const Accessor& me) {
  const auto passed = [&c](const Sets::Node& node) {
    return ForEach(node, [&c](const Access& access) { return IsOrdered(c, access); });
  };
  uint32_t set = 0;
  if (before.kind == Kind::kSet) {
    set = before.index();
  } else {
    if (before.who == me.access.who || IsOrdered(c, before)) return me.access;
    set = c.sets.Add(0, before, before_code, passed);
  }
  set = c.sets.Add(set, me.access, me.code, passed);
  if (c.sets.full()) FailLaunch("more readers of memory than the checked build can tell apart");
  return Access::Of(Kind::kSet, c.epoch, set);
}

void Touch(Checker& c, Cell& cell, const Accessor& me, const Region& region, uintptr_t at,
           size_t bytes) {
  const bool again =
      me.writes ? cell.write == me.access && cell.read.epoch == 0 : cell.read == me.access;
  if (again && me.access.kind != Kind::kPending) return;
  const uint64_t from = region.shared ? c.block : c.launch;
  const bool written = cell.write.epoch >= from, read = cell.read.epoch >= from;
  if (written) {
    Judge(c, cell.write, cell.write_code, true, me, region, at, bytes);
  } else if (region.shared && (!me.writes || me.atomic)) {
    Fail(c, Hazard::kUninitialised, me, PlaceText(region, at, bytes));
  }
  if (!me.writes) {
    if (!read) {
      cell.read = me.access;
    } else if (cell.read.epoch < c.block) {
      cell.elsewhere = {cell.read.epoch, cell.read_code};
      cell.read = me.access;
    } else {
      cell.read = Gather(c, cell.read, cell.read_code, me);
    }
    cell.read_code = me.code;
    return;
  }
  if (read) Judge(c, cell.read, cell.read_code, false, me, region, at, bytes);
  if (!region.shared && cell.elsewhere.epoch >= from) {
    const Access other{cell.elsewhere.epoch, Kind::kPlain, 0, 0};
    Judge(c, other, static_cast<uint32_t>(cell.elsewhere.code), false, me, region, at, bytes);
  }
  const bool joins = me.atomic && written && cell.write.epoch >= c.block &&
                     (cell.write.kind == Kind::kAtomic || cell.write.kind == Kind::kSet);
  cell.write = joins ? Gather(c, cell.write, cell.write_code, me) : me.access;
  cell.write_code = me.code;
  cell.read = Access();
  cell.elsewhere = {};
}

void TouchRange(Checker& c, const Shadow& shadow, const Region& region, uintptr_t at, size_t bytes,
                const Accessor& me) {
  std::vector<Bytes>& split = region.shared ? c.shared_bytes : c.device_bytes;
  const uint64_t from = region.shared ? c.block : c.launch;
  const uintptr_t end = at + bytes;
  for (uintptr_t word = at / 4 * 4; word < end; word += 4) {
    Cell& cell = shadow.At(word);
    const bool apart = cell.write.kind == Kind::kSplit && cell.write.epoch >= from;
    const uintptr_t first = std::max(at, word), last = std::min(end, word + 4);
    if (!apart) {
      if (cell.write.kind == Kind::kSplit) cell = Cell();  // of an earlier launch or block
      if (last - first == 4) {
        Touch(c, cell, me, region, word, 4);
        continue;
      }
      const auto index = static_cast<uint32_t>(split.size());
      split.push_back({{cell, cell, cell, cell}});
      cell = Cell();
      cell.write = Access::Of(Kind::kSplit, c.epoch, index);
    }
    Bytes& own = split[cell.write.index()];
    for (uintptr_t byte = first; byte < last; ++byte) {
      Touch(c, own.cell[byte - word], me, region, byte, 1);
    }
  }
}

Allocation* AllocationAt(uintptr_t at) {
  Allocation*& last = found[at >> 12 & (kFound - 1)];
  if (last != nullptr && at - last->start < last->bytes) return last;
  auto& all = Allocations();
  auto next = all.upper_bound(at);
  if (next == all.begin()) return nullptr;
  Allocation& candidate = std::prev(next)->second;
  if (at - candidate.start >= candidate.bytes) return nullptr;
  return last = &candidate;
}

// An access nobody may make: near an allocation, for what lies between is not ours to know.
void CheckStray(const Checker& c, uintptr_t at, size_t bytes, const Accessor& me) {
  constexpr uintptr_t kNear = 4096;
  auto& all = Allocations();
  auto next = all.upper_bound(at);
  const Allocation* nearest = nullptr;
  if (next != all.end() && next->second.start - at < kNear) nearest = &next->second;
  if (next != all.begin()) {
    const Allocation& before = std::prev(next)->second;
    if (at - (before.start + before.bytes) < kNear) nearest = &before;
  }
  if (nearest == nullptr) return;
  Fail(c, Hazard::kOutside, me,
       PlaceText({false, "device", nearest->start, nearest->bytes}, at, bytes));
}

void Visit(Checker& c, const void* p, size_t bytes, const Accessor& me) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  const Memory& m = c.memory;
  c.inside = true;
  struct Out {
    bool& inside;
    ~Out() { inside = false; }
  } const out{c.inside};
  const auto dynamic = reinterpret_cast<uintptr_t>(m.dynamic);
  if (at - (dynamic - m.margins) < m.dynamic_bytes + 2 * m.margins) {
    const Region region{true, "dynamic shared", dynamic, m.dynamic_bytes};
    if (at < dynamic || at + bytes > dynamic + m.dynamic_bytes) {
      Fail(c, Hazard::kOutside, me, PlaceText(region, at, bytes));
    }
    TouchRange(c, c.dynamic, region, at, bytes, me);
    return;
  }
  if (at - c.fixed_start < c.fixed_bytes) {
    TouchRange(c, c.fixed, {true, "static shared", c.fixed_start, c.fixed_bytes}, at, bytes, me);
    return;
  }
  if (Allocation* const in = AllocationAt(at)) {
    const Region region{false, "device", in->start, in->bytes};
    if (at + bytes > in->start + in->bytes) {
      Fail(c, Hazard::kOutside, me, PlaceText(region, at, bytes));
    }
    TouchRange(c, in->shadow, region, at, bytes, me);
    return;
  }
  CheckStray(c, at, bytes, me);
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
  c.block_index = index;
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

// ------------------------------------------------------------------------------------- memory

void CheckAllocated(const void* p, size_t bytes) {
  std::lock_guard lock(mutex);
  const auto start = reinterpret_cast<uintptr_t>(p);
  std::fill(std::begin(found), std::end(found), nullptr);
  Allocations().insert_or_assign(start, Allocation{start, bytes, Shadow(start, bytes)});
}

void CheckFreed(const void* p) {
  std::lock_guard lock(mutex);
  std::fill(std::begin(found), std::end(found), nullptr);
  Allocations().erase(reinterpret_cast<uintptr_t>(p));
}

}  // namespace fuselm::emulate
