#include "native/core/decoder.h"

#include <algorithm>
#include <cstring>

namespace fuselm {
namespace {

[[noreturn]] void Malformed(size_t record, size_t word, const std::string& what) {
  throw Error(ErrorCode::kFormat, "command record " + std::to_string(record) + " (word " +
                                      std::to_string(word) + "): " + what);
}

// Words of a control record after its header; kWrite has its payload besides.
int ControlWords(uint32_t code) {
  switch (code) {
    case kAlloc: return 4;
    case kFree: return 1;
    case kWrite: return 4;
    case kUpload: return 4;
    case kRead: return 6;
    case kFence:
    case kSignal:
    case kWait:
    case kMark:
    case kMend: return 1;
    default: return -1;
  }
}

class FramingCheck {
 public:
  FramingCheck(std::span<const uint32_t> words, const KernelTable& kernels)
      : words_(words), kernels_(kernels) {}

  Framing Run() {
    while (at_ < words_.size()) {
      const size_t left = words_.size() - at_;
      const uint32_t length = words_[at_];
      if (length < kHeaderWords || length > left) {
        Fail("length " + std::to_string(length) + ", with " + std::to_string(left) + " words left");
      }
      record_ = words_.subspan(at_, length);
      next_ = kHeaderWords;
      const uint32_t code = record_[1];
      if (code < kFirstKernelCode) {
        Control(code);
      } else if (code - kFirstKernelCode < kernels_.size()) {
        Kernel(kernels_[code - kFirstKernelCode]);
      } else {
        Fail("unknown code " + std::to_string(code));
      }
      if (next_ != length) {
        Fail("length " + std::to_string(length) + ", but its fields take " + std::to_string(next_));
      }
      at_ += length;
      ++framing_.records;
    }
    return std::move(framing_);
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    Malformed(static_cast<size_t>(framing_.records), at_ + next_, what);
  }

  uint32_t Take() {
    if (next_ >= record_.size()) Fail("the record ends early");
    return record_[next_++];
  }
  int64_t TakeSize(const char* what) {
    if (record_.size() - next_ < 2) Fail("the record ends early");
    const int64_t value = Int64At(&record_[next_]);
    if (value < 0) Fail(std::string("negative ") + what);
    next_ += 2;
    return value;
  }
  void TakeId() {
    const uint32_t id = Take();
    if (id == 0 || id > kMaxBufferId) Fail("buffer id " + std::to_string(id));
  }

  void Control(uint32_t code) {
    const int fields = ControlWords(code);
    if (fields < 0) Fail("unknown code " + std::to_string(code));
    if (code <= kRead || code == kMend) TakeId();
    switch (code) {
      case kAlloc:
        TakeSize("size");
        Take();
        break;
      case kWrite: {
        TakeSize("offset");
        const size_t payload = (static_cast<size_t>(Take()) + 3) / 4;
        if (payload > record_.size() - next_) Fail("the data is longer than the record");
        next_ += payload;
        break;
      }
      case kUpload:
        TakeSize("offset");
        framing_.uploads.push_back(Take());
        break;
      case kRead:
        TakeSize("offset");
        TakeSize("size");
        Take();
        break;
      case kFree:
      case kMend: break;
      default: Take();
    }
  }

  void Kernel(const KernelEntry& kernel) {
    const uint32_t counts = Take();
    const uint32_t tensors = counts & 0xffff, attributes = counts >> 16;
    const Signature& signature = kernel.signature;
    if (!signature.Fits(tensors)) {
      Fail(signature.op + ": " + std::to_string(tensors) + " tensors do not fit " + kernel.text);
    }
    if (attributes != signature.attributes.size()) {
      Fail(signature.op + ": " + std::to_string(attributes) + " attributes do not fit " +
           kernel.text);
    }
    for (uint32_t i = 0; i < tensors; ++i) Tensor(signature, signature.arg(i));
    if (record_.size() - next_ < 2ull * attributes) Fail("the record ends early");
    next_ += 2ull * attributes;
  }

  void Tensor(const Signature& signature, const SignatureArg& role) {
    if (next_ < record_.size() && record_[next_] == 0) {
      if (!role.optional) Fail(signature.op + ": " + role.name + " is absent");
      ++next_;
      return;
    }
    TakeId();
    const uint32_t type = Take();
    const uint32_t dtype = type & 0xff, rank = type >> 8;
    if (dtype == 0 || dtype >= kDTypeCount) Fail("dtype code " + std::to_string(dtype));
    if (rank > static_cast<uint32_t>(kMaxRank)) Fail("rank " + std::to_string(rank));
    TakeSize("offset");
    for (uint32_t i = 0; i < rank; ++i) TakeSize("dimension");
    for (uint32_t i = 0; i < rank; ++i) TakeSize("stride");
  }

  std::span<const uint32_t> words_, record_;
  const KernelTable& kernels_;
  size_t at_ = 0, next_ = 0;
  Framing framing_;
};

std::string Name(const Argument& argument) { return argument.role->name + ": "; }

void CheckBounds(const View& view, const Argument& a, int64_t offset, bool measured) {
  if (!a.buffer) {
    throw Error(ErrorCode::kDevice, Name(a) + "no buffer " + std::to_string(a.id));
  }
  if (!measured || a.at.end > a.buffer->bytes) {
    throw Error(ErrorCode::kDevice, Name(a) + view.ToString() + " at element " +
                                        std::to_string(offset) + " leaves its buffer of " +
                                        std::to_string(a.buffer->bytes) + " bytes");
  }
}

// A sweep over the arguments by place: a multi-tensor command has thousands.
void CheckOverlaps(Decoded& d) {
  d.order.clear();
  for (uint32_t i = 0; i < d.views.size(); ++i) {
    const Argument& a = d.arguments[i];
    if (!a.buffer) continue;
    if (a.role->written() && MayOverlapItself(d.views[i])) {
      throw Error(ErrorCode::kDevice, Name(a) + "is written and overlaps itself");
    }
    d.order.push_back(i);
  }
  std::sort(d.order.begin(), d.order.end(), [&](uint32_t i, uint32_t j) {
    const Argument &a = d.arguments[i], &b = d.arguments[j];
    return a.id != b.id ? a.id < b.id : a.at.begin < b.at.begin;
  });
  for (size_t n = 0; n < d.order.size(); ++n) {
    const uint32_t i = d.order[n];
    const Argument& a = d.arguments[i];
    for (size_t m = n + 1; m < d.order.size(); ++m) {
      const uint32_t j = d.order[m];
      const Argument& b = d.arguments[j];
      if (b.id != a.id || b.at.begin >= a.at.end) break;
      if (!a.role->written() && !b.role->written()) continue;
      if (MayOverlap(d.views[i], a.at, d.views[j], b.at)) {
        const bool first = a.role->written();
        throw Error(ErrorCode::kDevice,
                    Name(first ? a : b) + "is written and overlaps " + (first ? b : a).role->name);
      }
    }
  }
}

}  // namespace

Framing CheckFraming(std::span<const uint32_t> words, const KernelTable& kernels) {
  return FramingCheck(words, kernels).Run();
}

void Decode(const uint32_t* record, const KernelEntry& kernel, BufferTable& buffers, Decoded& out) {
  const uint32_t tensors = record[3] & 0xffff, attributes = record[3] >> 16;
  const uint32_t* at = record + 4;
  out.views.assign(tensors, View{});
  out.arguments.assign(tensors, Argument{});
  out.attributes.resize(attributes);
  out.bytes = 0;
  struct {
    size_t index = SIZE_MAX;
    int64_t offset = 0;
    bool measured = false;
  } bad;
  for (uint32_t i = 0; i < tensors; ++i) {
    Argument& a = out.arguments[i];
    View& view = out.views[i];
    a.role = &kernel.signature.arg(i);
    a.id = *at++;
    if (a.id == 0) continue;
    view.dtype = static_cast<DType>(*at & 0xff);
    view.rank = static_cast<int32_t>(*at++ >> 8);
    const int64_t offset = Int64At(at);
    at += 2;
    for (int k = 0; k < view.rank; ++k, at += 2) view.shape[k] = Int64At(at);
    for (int k = 0; k < view.rank; ++k, at += 2) view.stride[k] = Int64At(at);
    a.buffer = buffers.Find(a.id);
    const auto measured = Measure(view, offset);
    if (measured) a.at = *measured;
    if (!a.buffer || !measured || a.at.end > a.buffer->bytes) {
      if (bad.index == SIZE_MAX) bad = {i, offset, measured.has_value()};
      continue;
    }
    out.bytes += std::min(a.at.numel * static_cast<int64_t>(ItemSize(view.dtype)), a.buffer->bytes);
    if (a.buffer->block) view.data = a.buffer->block.data + a.at.begin;
  }
  if (attributes > 0) std::memcpy(out.attributes.data(), at, attributes * sizeof(double));
  if (bad.index != SIZE_MAX) {
    CheckBounds(out.views[bad.index], out.arguments[bad.index], bad.offset, bad.measured);
  }
  CheckOverlaps(out);
}

std::string DescribeShapes(std::span<const View> views) {
  std::string s = "(";
  for (size_t i = 0; i < views.size(); ++i) {
    if (i > 0) s += ", ";
    if (i == 8) {
      s += "and " + std::to_string(views.size() - i) + " more";
      break;
    }
    s += views[i].data || views[i].rank > 0 ? views[i].ToString() : "-";
  }
  return s + ")";
}

}  // namespace fuselm
