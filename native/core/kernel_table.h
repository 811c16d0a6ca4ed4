// The kernels one device runs: every registered signature, its variants up to the device's level.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "native/core/kernel.h"
#include "native/core/runtime.h"
#include "native/core/signature.h"

namespace fuselm {

struct Variant {
  KernelInfo info;
  std::atomic<int64_t> executions{0};
  std::atomic<int64_t> nanoseconds{0};
  explicit Variant(const KernelInfo& i) : info(i) {}
};

struct KernelEntry {
  std::string text;
  Signature signature;
  std::deque<Variant> variants;  // best level first
  bool transactional = false;

  // The variant for these arguments: the best that takes the dtype of the first floating argument,
  // or of the first argument when none is floating (then any, for the launcher to judge).
  // Throws Error(kShape) when none does.
  Variant& Select(std::span<const View> args);
};

class KernelTable {
 public:
  // Throws Error(kConfig) when a registered signature does not parse.
  KernelTable(std::span<const KernelInfo> registered, Level cap);
  size_t size() const { return entries_.size(); }
  KernelEntry& operator[](size_t i) { return entries_[i]; }
  const KernelEntry& operator[](size_t i) const { return entries_[i]; }
  std::vector<DeviceKernel> Describe() const;

 private:
  std::deque<KernelEntry> entries_;  // ordered by signature
};

}  // namespace fuselm
