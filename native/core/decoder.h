// Command records: what Submit checks about their framing, and how a kernel's record becomes views.
// The format is described in docs/architecture.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "native/core/buffers.h"
#include "native/core/kernel_table.h"
#include "native/core/layout.h"

namespace fuselm {

inline constexpr uint32_t kHeaderWords = 3;

inline int64_t Int64At(const uint32_t* words) {
  return static_cast<int64_t>(words[0] | static_cast<uint64_t>(words[1]) << 32);
}

struct Framing {
  int64_t records = 0;
  std::vector<uint32_t> uploads;  // tokens
};

// Checks every length, code, count, id, dtype, rank and sign in `words`, so that nothing after it
// needs to look at a record's bounds again. Throws Error(kFormat) naming the record and word.
Framing CheckFraming(std::span<const uint32_t> words, const KernelTable& kernels);

// One tensor argument of a decoded command.
struct Argument {
  Buffer* buffer = nullptr;  // null when absent, or when the id names no live buffer
  const SignatureArg* role = nullptr;
  Layout at;
  uint32_t id = 0;
};

struct Decoded {
  std::vector<View> views;
  std::vector<Argument> arguments;
  std::vector<double> attributes;
  std::vector<uint32_t> order;  // of present arguments by place, for the overlap check
  int64_t bytes = 0;            // of all tensors
};

// Fills `out` from a record that passed CheckFraming. It is complete as far as buffers and roles
// go also when this throws: Error(kDevice) for a view outside its buffer, a written view that
// overlaps itself, or a written view that overlaps another argument.
void Decode(const uint32_t* record, const KernelEntry& kernel, BufferTable& buffers, Decoded& out);

// "(f32[3,65], -, bf16[65])", of at most eight arguments.
std::string DescribeShapes(std::span<const View> views);

}  // namespace fuselm
