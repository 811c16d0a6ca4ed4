#include "native/core/kernel_table.h"

#include <algorithm>
#include <map>

namespace fuselm {

KernelTable::KernelTable(std::span<const KernelInfo> registered, Level cap) {
  std::map<std::string, std::vector<KernelInfo>> by_signature;
  for (const KernelInfo& info : registered) {
    if (info.level <= cap) by_signature[info.signature].push_back(info);
  }
  for (auto& [text, infos] : by_signature) {
    std::stable_sort(infos.begin(), infos.end(),
                     [](const KernelInfo& a, const KernelInfo& b) { return a.level > b.level; });
    KernelEntry& entry = entries_.emplace_back();
    entry.text = text;
    entry.signature = ParseSignature(text);
    for (const KernelInfo& info : infos) {
      entry.variants.emplace_back(info);
      entry.transactional |= info.transactional;
    }
  }
}

Variant& KernelEntry::Select(std::span<const View> args) {
  const View* key = nullptr;
  for (const View& v : args) {
    if (!v.data) continue;
    if (Mask(v.dtype) & kFloat64) {
      key = &v;
      break;
    }
    if (!key) key = &v;
  }
  if (!key) return variants.front();
  for (Variant& variant : variants) {
    if (variant.info.dtypes & Mask(key->dtype)) return variant;
  }
  if (!(Mask(key->dtype) & kFloat64)) return variants.front();
  throw Error(ErrorCode::kShape, std::string("no kernel for ") + DTypeName(key->dtype));
}

std::vector<DeviceKernel> KernelTable::Describe() const {
  std::vector<DeviceKernel> all;
  for (const KernelEntry& entry : entries_) {
    DeviceKernel& k = all.emplace_back();
    k.signature = entry.text;
    k.info = entry.variants.front().info;
    k.dtypes = 0;
    k.executions = 0;
    k.nanoseconds = 0;
    for (const Variant& v : entry.variants) {
      k.variants.push_back(
          {v.info.level, v.info.dtypes, v.executions.load(), v.nanoseconds.load()});
      k.dtypes |= v.info.dtypes;
      k.executions += v.executions.load();
      k.nanoseconds += v.nanoseconds.load();
    }
  }
  return all;
}

}  // namespace fuselm
