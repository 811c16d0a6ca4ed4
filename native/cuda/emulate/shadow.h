// What is known of every byte that kernels touch: its last write, and the reads since.
#pragma once

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace fuselm::emulate {

// Who may access memory within a block: its threads, then the asynchronous units that work for
// them, one for the wgmma of each warp and one for the copies of each mbarrier.
constexpr int kMostThreads = 1024, kMostWarps = 32, kMostMbarriers = 64;
constexpr int kFirstUnit = kMostThreads, kFirstMbarrier = kFirstUnit + kMostWarps;
constexpr int kUnits = kMostWarps + kMostMbarriers;

enum class Kind : uint64_t { kPlain, kAtomic, kPending, kSet, kSplit };

// Epochs are numbered through all launches: every launch, block and block barrier begins one.
// Within one, `clock` counts what the accessor has announced to others. Zero is none.
struct Access {
  uint64_t epoch : 34 = 0;
  Kind kind : 3 = Kind::kPlain;
  uint64_t who : 11 = 0;
  uint64_t clock : 16 = 0;

  Access() = default;
  Access(uint64_t epoch_, Kind kind_, uint64_t who_, uint64_t clock_)
      : epoch(epoch_), kind(kind_), who(who_), clock(clock_) {}
  // Of kSet and kSplit.
  uint32_t index() const { return static_cast<uint32_t>(who << 16 | clock); }
  static Access Of(Kind kind, uint64_t epoch, uint32_t index) {
    return {epoch, kind, index >> 16 & 0x7ff, index & 0xffff};
  }
  bool operator==(const Access& other) const {
    return std::bit_cast<uint64_t>(*this) == std::bit_cast<uint64_t>(other);
  }
};
static_assert(sizeof(Access) == 8);

// Of a word of four bytes, or of one byte where they were accessed apart (then the word's `write`
// is kSplit). `read` is one reader or a set of them; `elsewhere` one of an earlier block of the
// launch. Places in the code are offsets in the plugin.
struct Cell {
  Access write, read;
  struct {
    uint64_t epoch : 34 = 0, code : 30 = 0;
  } elsewhere;
  uint32_t write_code = 0, read_code = 0;
};
static_assert(sizeof(Cell) == 32);

struct Bytes {
  Cell cell[4];
};

// Cells of a range of memory that begins at a multiple of four; pages that nobody touches are free.
class Shadow {
 public:
  Shadow() = default;
  Shadow(uintptr_t start, size_t bytes) : start_(start), size_(((bytes + 3) / 4) * sizeof(Cell)) {
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cells_ = memory == MAP_FAILED ? nullptr : static_cast<Cell*>(memory);
  }
  Shadow(Shadow&& other) noexcept { *this = static_cast<Shadow&&>(other); }
  Shadow& operator=(Shadow&& other) noexcept {
    std::swap(start_, other.start_);
    std::swap(size_, other.size_);
    std::swap(cells_, other.cells_);
    return *this;
  }
  ~Shadow() {
    if (cells_ != nullptr) munmap(cells_, size_);
  }
  bool ok() const { return cells_ != nullptr; }
  Cell& At(uintptr_t address) const { return cells_[(address - start_) / 4]; }

 private:
  uintptr_t start_ = 0;
  size_t size_ = 0;
  Cell* cells_ = nullptr;
};

// Sets of accesses as chains; equal steps lead to the same set. A node is lanes of one warp with
// one clock (`access` is that of lane 0), or one unit.
class Sets {
 public:
  struct Node {
    uint32_t parent;  // 0 is the empty set
    uint32_t code;
    Access access;
    uint32_t lanes;
  };

  void Clear() {
    nodes_.resize(1);
    ++generation_;
  }
  const Node& operator[](uint32_t set) const { return nodes_[set]; }

  // One more, without the nodes that `passed` says need not be told apart from it any more.
  template <class Passed>
  uint32_t Add(uint32_t set, const Access& access, uint32_t code, const Passed& passed) {
    // One thread after another reads the same words: the same few steps for all of them.
    const uint64_t key =
        (std::bit_cast<uint64_t>(access) ^ uint64_t{set} << 32) * 0x9e3779b97f4a7c15;
    Step& step = steps_[key >> 52];
    if (step.generation != generation_ || step.from != set || step.access != access) {
      step = {access, set, Join(set, access, code, passed), generation_};
    }
    return step.to;
  }
  bool full() const { return nodes_.size() >= (uint32_t{1} << 27) - 64; }

 private:
  struct Step {  // from a set, by an access, to a set
    Access access;
    uint32_t from = 0, to = 0, generation = 0;
  };
  template <class Passed>
  uint32_t Join(uint32_t set, const Access& access, uint32_t code, const Passed& passed) {
    Node added{0, code, access, 1};
    if (access.who < kFirstUnit) {
      added.lanes = uint32_t{1} << access.who % 32;
      added.access.who = access.who / 32 * 32;
    }
    kept_.clear();
    bool fewer = false;
    for (uint32_t at = set; at != 0; at = nodes_[at].parent) {
      const Node& node = nodes_[at];
      if (node.access == added.access) {
        if ((node.lanes & added.lanes) != 0) return set;
        added.lanes |= node.lanes;
        fewer = true;
      } else if (passed(node)) {
        fewer = true;
      } else {
        kept_.push_back(at);
      }
    }
    added.parent = fewer ? 0 : set;
    for (size_t i = kept_.size(); fewer && i-- > 0;) {
      Node node = nodes_[kept_[i]];
      node.parent = added.parent;
      added.parent = Push(node);
    }
    return Push(added);
  }
  uint32_t Push(const Node& node) {
    nodes_.push_back(node);
    return static_cast<uint32_t>(nodes_.size() - 1);
  }
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::vector<uint32_t> kept_;
  std::array<Step, 4096> steps_;
  uint32_t generation_ = 1;
};

}  // namespace fuselm::emulate
