// Signatures, layouts, events: what needs no device.
#include <random>
#include <set>

#include "native/core/environment.h"
#include "native/core/layout.h"
#include "native/core/signature.h"
#include "native/test/harness.h"

namespace fuselm::test {
namespace {

View Make(std::vector<int64_t> shape, std::vector<int64_t> stride, DType dtype = DType::kF32) {
  View v;
  v.dtype = dtype;
  v.rank = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), v.shape);
  std::copy(stride.begin(), stride.end(), v.stride);
  return v;
}

bool Apart(const View& a, int64_t offset_a, const View& b, int64_t offset_b) {
  return !MayOverlap(a, *Measure(a, offset_a), b, *Measure(b, offset_b));
}

TEST(signature_plain) {
  const Signature s = ParseSignature("rms_norm(x, w) -> (y, rstd?) [eps]");
  CHECK_EQ(s.op, "rms_norm");
  CHECK_EQ(s.fixed.size(), 4u);
  CHECK(!s.arg(0).written() && s.arg(2).output && s.arg(3).optional && s.arg(3).written());
  CHECK_EQ(s.attributes.size(), 1u);
  CHECK(s.Fits(4) && !s.Fits(3) && !s.Fits(5));
}

TEST(signature_group) {
  const Signature s =
      ParseSignature("adam_w(norm, state!, ...(param!, low!?, grad)) [beta1, beta2]");
  CHECK_EQ(s.fixed.size(), 2u);
  CHECK_EQ(s.group.size(), 3u);
  CHECK(s.Fits(2) && s.Fits(5) && s.Fits(8) && !s.Fits(6) && !s.Fits(1));
  CHECK_EQ(s.arg(6).name, "low");
  CHECK(s.arg(6).optional && s.arg(6).in_place && !s.arg(7).written() && s.arg(5).in_place);
  CHECK_EQ(ParseSignature("concat(...(x)) -> (y) [axis]").arg(0).name, "y");
  CHECK(ParseSignature("iota() -> (y)").fixed.size() == 1);
  CHECK(ParseSignature("x.backward(dw!)").fixed[0].in_place);
}

TEST(signature_errors) {
  for (const char* bad :
       {"", "(x)", "f", "f(x", "f(x,)", "f(x) -> y", "f(x) [", "f(x) []", "f(x, x)", "f(x) -> (y!)",
        "f(x?!?)", "f(...(a), b)", "f(...(a)) -> (...(b))", "f(x) ) ", "1f(x)", "f(...())"}) {
    CHECK_THROWS(ParseSignature(bad), ErrorCode::kConfig, "kernel signature");
  }
}

TEST(layout_extent) {
  const auto at = Measure(Make({2, 3}, {10, 1}), 5);
  CHECK(at && at->begin == 20 && at->end == 72 && at->numel == 6);
  const auto empty = Measure(Make({0, 3}, {3, 1}), 4);
  CHECK(empty && empty->numel == 0 && empty->begin == 16 && empty->end == 16);
  CHECK(Measure(Make({}, {}), 0)->numel == 1);
}

TEST(layout_overflow) {
  const int64_t big = INT64_MAX;
  CHECK(!Measure(Make({4}, {1}), big / 4 + 1));
  CHECK(!Measure(Make({big}, {big}), 0));
  CHECK(!Measure(Make({2, 2}, {big, big}), 0));
  CHECK(!Measure(Make({1ll << 32, 1ll << 32}, {0, 0}), 0));
  CHECK(!Measure(Make({1ll << 62}, {0}), 0));  // numel fits, its bytes do not
  CHECK(!Measure(Make({-1}, {1}), 0));
  CHECK(!Measure(Make({2}, {-1}), 8));
  CHECK(!Measure(Make({2}, {1}), -1));
  CHECK(Measure(Make({1, 4}, {big, 1}), 0));  // a stride that is never taken
}

TEST(layout_self_overlap) {
  CHECK(!MayOverlapItself(Make({2, 3}, {3, 1})));
  CHECK(!MayOverlapItself(Make({3, 2}, {1, 3})));
  CHECK(!MayOverlapItself(Make({2, 3}, {8, 2})));
  CHECK(MayOverlapItself(Make({2, 3}, {0, 1})));
  CHECK(MayOverlapItself(Make({2, 3}, {2, 1})));
  CHECK(!MayOverlapItself(Make({1, 3}, {0, 1})));
  CHECK(!MayOverlapItself(Make({0, 3}, {0, 0})));
}

TEST(layout_rows_and_columns) {
  const View rows = Make({2, 8}, {8, 1});
  CHECK(Apart(rows, 0, rows, 16));
  CHECK(!Apart(rows, 0, rows, 8));
  const View columns = Make({4, 4}, {12, 1});  // q, k, v beside each other
  CHECK(Apart(columns, 0, columns, 4));
  CHECK(Apart(columns, 0, columns, 8));
  CHECK(!Apart(columns, 0, columns, 3));
  CHECK(!Apart(columns, 10, columns, 0));  // runs into the next row
  CHECK(Apart(Make({4, 2, 2}, {12, 2, 1}), 4, columns, 0));
  CHECK(Apart(Make({0}, {1}), 3, rows, 0));
}

// Against sets of bytes: never says apart when a byte is shared, never misses a self-overlap.
TEST(layout_random_against_sets) {
  std::mt19937 random(1);
  const auto pick = [&](int n) { return static_cast<int64_t>(random() % n); };
  int apart = 0, intersecting_ranges = 0;
  const auto bytes_of = [](const View& v, int64_t offset, bool* repeats) {
    std::set<int64_t> bytes;
    const int64_t item = static_cast<int64_t>(ItemSize(v.dtype));
    for (int64_t i = 0; i < v.numel(); ++i) {
      int64_t rest = i, at = offset;
      for (int d = v.rank - 1; d >= 0; --d) {
        at += rest % v.shape[d] * v.stride[d];
        rest /= v.shape[d];
      }
      for (int64_t b = 0; b < item; ++b) *repeats |= !bytes.insert(at * item + b).second;
    }
    return bytes;
  };
  for (int round = 0; round < 20000; ++round) {
    View v[2];
    int64_t offset[2];
    std::set<int64_t> bytes[2];
    for (int i = 0; i < 2; ++i) {
      v[i].dtype = pick(2) ? DType::kF32 : DType::kBF16;
      v[i].rank = static_cast<int32_t>(pick(4));
      for (int d = 0; d < v[i].rank; ++d) {
        v[i].shape[d] = pick(5);
        v[i].stride[d] = pick(2) ? pick(4) : pick(25);
      }
      offset[i] = pick(30);
      bool repeats = false;
      bytes[i] = bytes_of(v[i], offset[i], &repeats);
      if (repeats) CHECK(MayOverlapItself(v[i]));
      const auto at = Measure(v[i], offset[i]);
      CHECK(at.has_value());
      if (!bytes[i].empty())
        CHECK(*bytes[i].begin() == at->begin && *bytes[i].rbegin() + 1 == at->end);
    }
    bool shared = false;
    for (const int64_t b : bytes[0]) shared |= bytes[1].count(b) > 0;
    const bool said_apart = Apart(v[0], offset[0], v[1], offset[1]);
    if (shared) CHECK(!said_apart);
    apart += said_apart;
    const auto a = *Measure(v[0], offset[0]), b = *Measure(v[1], offset[1]);
    intersecting_ranges +=
        said_apart && !bytes[0].empty() && !bytes[1].empty() && a.begin < b.end && b.begin < a.end;
  }
  CHECK(apart > 1000);
  CHECK(intersecting_ranges > 10);  // the column rule is exercised
}

TEST(event_set) {
  EventSet set;
  for (const uint32_t e : {5u, 7u, 6u, 1u, 3u, 2u, 7u, 4294967295u, 4294967294u, 0u}) set.Add(e);
  for (const uint32_t e : {0u, 1u, 2u, 3u, 5u, 6u, 7u, 4294967294u, 4294967295u})
    CHECK(set.Contains(e));
  for (const uint32_t e : {4u, 8u, 4294967293u}) CHECK(!set.Contains(e));
  set.Add(4);
  CHECK_EQ(set.ranges(), 2u);
  for (uint32_t e = 8; e < 5000; ++e) set.Add(e);
  CHECK_EQ(set.ranges(), 2u);
}

}  // namespace
}  // namespace fuselm::test
