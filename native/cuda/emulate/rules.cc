// The rules of check.h over the shadow of memory (shadow.h) and the clocks of threads (order.h).
#include <algorithm>
#include <bit>
#include <map>

#include "native/cuda/emulate/checker.h"

namespace fuselm::emulate {

std::mutex checked_memory;

void Fail(const Checker& c, Hazard hazard, const Accessor& me, const std::string& place,
          const Access* before, bool wrote, uint32_t code) {
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

namespace {

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

}  // namespace

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

void CheckAllocated(const void* p, size_t bytes) {
  std::lock_guard lock(checked_memory);
  const auto start = reinterpret_cast<uintptr_t>(p);
  std::fill(std::begin(found), std::end(found), nullptr);
  Allocations().insert_or_assign(start, Allocation{start, bytes, Shadow(start, bytes)});
}

void CheckFreed(const void* p) {
  std::lock_guard lock(checked_memory);
  std::fill(std::begin(found), std::end(found), nullptr);
  Allocations().erase(reinterpret_cast<uintptr_t>(p));
}

}  // namespace fuselm::emulate
