// Records one after another on one queue: framing, bounds, aliasing, poison, memory.
#include <cmath>

#include "native/core/decoder.h"
#include "native/test/harness.h"
#include "native/test/session.h"

namespace fuselm::test {
namespace {

std::vector<float> Range(int n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) v[static_cast<size_t>(i)] = static_cast<float>(i);
  return v;
}

// Buffers 1 and 2 of n floats; 1 holds 0, 1, 2, ...
Commands TwoBuffers(const Session& s, int n) {
  return s.Begin().Alloc(1, 4 * n).Alloc(2, 4 * n).WriteFloats(1, Range(n));
}

TEST(command_runs_a_kernel) {
  Session s;
  Commands c = TwoBuffers(s, 6);
  c.Kernel("toy.scale", {{1, {2, 3}}, {2, {2, 3}}}, {3});
  s.Submit(c);
  const auto y = s.Floats(2, 6);
  for (int i = 0; i < 6; ++i) CHECK_EQ(y[i], 3.f * i);
  CHECK_EQ(s.environment->pending_commands(), 0);
  CHECK_EQ(s.environment->pending_bytes(), 0);
}

TEST(command_views_with_strides) {
  Session s;
  Commands c = TwoBuffers(s, 12);
  c.Kernel("toy.scale", {{1, {12}}, {2, {12}}}, {0});
  c.Kernel("toy.scale", {{1, {2, 3}, {1, 4}, 2}, {2, {2, 3}, {6, 2}, 1}}, {1});
  s.Submit(c);
  const auto y = s.Floats(2, 12);
  const std::vector<float> want{0, 2, 0, 6, 0, 10, 0, 3, 0, 7, 0, 11};
  for (int i = 0; i < 12; ++i) CHECK_EQ(y[i], want[i]);
}

TEST(upload_and_counters) {
  Session s;
  std::vector<float> big(3'000'000);
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<float>(i % 1000);
  const int64_t bytes = static_cast<int64_t>(big.size() * 4);
  s.environment->RegisterHost(5, big.data(), big.size() * 4);
  const auto before = s.device->kernels();
  Commands c = s.Begin().Alloc(1, bytes).Alloc(2, bytes).Upload(1, 0, 5);
  c.Kernel("toy.scale", {{1, {1000, 3000}}, {2, {1000, 3000}}}, {2});
  s.Submit(c);
  CHECK(s.Await(5).ok);
  const auto y = s.Floats(2, big.size());
  for (size_t i = 0; i < big.size(); ++i) CHECK_EQ(y[i], 2 * big[i]);
  const auto after = s.device->kernels();
  const uint32_t k = c.CodeOf("toy.scale") - kFirstKernelCode;
  CHECK_EQ(after[k].executions, before[k].executions + 1);
  CHECK(after[k].nanoseconds > before[k].nanoseconds);
  CHECK_EQ(after[k].variants.size(), 1u);
  CHECK_EQ(s.device->memory().live_bytes, 2 * bytes);
}

TEST(kernel_variant_by_dtype) {
  if (MachineLevel() < Level::kAvx2) return;
  Session s({.max_level = Level::kAvx2, .threads = 2});
  Commands c = s.Begin().Alloc(1, 64).Alloc(2, 4).Alloc(3, 4);
  c.Kernel("toy.which", {{1, {4}, {}, 0, DType::kF32}, {2, {1}, {}, 0, DType::kI32}});
  c.Kernel("toy.which", {{1, {4}, {}, 0, DType::kBF16}, {3, {1}, {}, 0, DType::kI32}});
  c.Kernel("toy.which", {{1, {4}, {}, 0, DType::kF64}, {2, {1}, {}, 0, DType::kI32}});
  s.Submit(c);
  CHECK_EQ(std::bit_cast<int32_t>(s.Floats(3, 1)[0]), 2);
  CHECK_THROWS(s.Floats(2, 1), ErrorCode::kShape, "no kernel for f64");
  Session generic({.max_level = Level::kGeneric, .threads = 2});
  Commands g = generic.Begin().Alloc(1, 64).Alloc(3, 4);
  g.Kernel("toy.which", {{1, {4}, {}, 0, DType::kBF16}, {3, {1}, {}, 0, DType::kI32}});
  generic.Submit(g);
  CHECK_EQ(std::bit_cast<int32_t>(generic.Floats(3, 1)[0]), 1);
}

TEST(framing_rejects_and_enqueues_nothing) {
  Session s;
  const uint32_t scale = s.Begin().CodeOf("toy.scale");
  const std::vector<std::vector<uint32_t>> bad = {
      {0},
      {2, 1},
      {4, kFence, 0},
      {5, kFence, 0, 1, 0},
      {3, kFence, 0},
      {4, 0, 0, 1},
      {4, 11, 0, 1},
      {4, 15, 0, 1},
      {4, 0xffffffff, 0, 0},
      {4, kFree, 0, 0},
      {4, kMend, 0, 0},
      {4, kFree, 0, kMaxBufferId + 1},
      {7, kAlloc, 0, 1, 0, 0x80000000, 0},  // a negative size
      {7, kWrite, 0, 1, 0, 0, 4},           // without its data
      {7, kWrite, 0, 1, 0, 0, 0xffffffff},
      {8, kWrite, 0, 1, 0, 0, 0, 0},     // with a word too many
      {4, scale, 0, 2},                  // no attribute
      {6, scale, 0, 2 | 1 << 16, 0, 0},  // a required tensor absent
      {5, scale, 0, 1 | 1 << 16, 0},     // a tensor too few
      {4, scale, 0, 0xffff | 1 << 16},
      {16, scale, 0, 2 | 1 << 16, 1, 1, 0, 0, 2, 99, 0, 0, 0, 0, 0, 0},    // dtype 99
      {14, scale, 0, 2 | 1 << 16, 1, 1 | 9 << 8, 0, 0, 2, 1, 0, 0, 0, 0},  // rank 9
      {14, scale, 0, 2 | 1 << 16, 1, 1, 0, 0x80000000, 2, 1, 0, 0, 0, 0},  // a negative offset
      {13, scale, 0, 2 | 1 << 16, 1, 1, 0, 0, 2, 1, 0, 0, 0},              // half an attribute
  };
  for (const auto& tail : bad) {
    Commands c = s.Begin().Fence(77);
    c.words.insert(c.words.end(), tail.begin(), tail.end());
    CHECK_THROWS(s.Submit(c), ErrorCode::kFormat, "command record 1 (word ");
  }
  s.Fence();
  CHECK(!s.Done(77));
  CHECK_THROWS(s.Submit(s.Begin().Fence(1), 9), ErrorCode::kDevice, "no queue 9");
}

TEST(views_stay_inside_their_buffers) {
  Session s;
  s.Submit(TwoBuffers(s, 16));
  const int64_t big = INT64_MAX;
  const std::vector<Arg> outside = {
      {1, {17}},
      {1, {16}, {}, 1},
      {1, {2, 2}, {15, 1}},
      {1, {2}, {big}},
      {1, {2}, {big / 4}},
      {1, {1}, {}, big},
      {1, {big}, {1}},
      {1, {1ll << 62}, {0}},
      {1, {4}, {1}, 16},
      {1, {0}, {1}, 17},
      {9, {1}},
      {1, {16}, {}, 0, DType::kF64},
  };
  for (const Arg& x : outside) {
    Commands c = s.Begin();
    c.Kernel("toy.scale", {x, {2, {16}}}, {1});
    s.Submit(c);
    CHECK_THROWS(s.Floats(2, 16), ErrorCode::kDevice, "x: ");
    // A full overwrite makes the buffer good again.
    c = s.Begin();
    s.Submit(c.Kernel("toy.scale", {{1, {16}}, {2, {16}}}, {1}));
    CHECK_EQ(s.Floats(2, 16)[15], 15.f);
  }
  Commands c = s.Begin().WriteFloats(1, Range(2), 60);
  s.Submit(c);
  CHECK_THROWS(s.Floats(1, 16), ErrorCode::kDevice, "8 bytes at 60 leave buffer 1 of 64 bytes");
  c = s.Begin().WriteFloats(1, Range(2), big - 3);
  s.Submit(c);
  s.Fence();
}

TEST(reads_and_uploads_are_checked) {
  Session s;
  s.Submit(TwoBuffers(s, 4));
  float host[8] = {};
  s.environment->RegisterHost(1, host, 8);
  s.Submit(s.Begin().Read(1, 0, 16, 1));
  CHECK(!s.Await(1).ok);
  s.environment->RegisterHost(2, host, 32);
  s.Submit(s.Begin().Read(1, 8, 16, 2));
  CHECK(!s.Await(2).ok);
  s.environment->RegisterHost(3, host, 32);
  s.Submit(s.Begin().Read(5, 0, 16, 3));
  CHECK_EQ(s.Await(3).message, "read: no buffer 5");
  s.Submit(s.Begin().Read(1, 0, 16, 4));
  CHECK_EQ(s.Await(4).message, "read: no memory registered for token 4");
  s.environment->RegisterHost(5, host, 32);
  s.Submit(s.Begin().Upload(1, 0, 5));
  CHECK(!s.Await(5).ok);
  CHECK_THROWS(s.Floats(1, 4), ErrorCode::kDevice, "upload: 32 bytes");
  s.Submit(s.Begin().Upload(2, 0, 6));
  CHECK(!s.Await(6).ok);
  CHECK_EQ(s.environment->pending_bytes(), 0);
}

TEST(written_views_may_not_alias) {
  Session s;
  Commands start = s.Begin().Alloc(1, 4 * 32).WriteFloats(1, Range(32)).Alloc(3, 4 * 32);
  s.Submit(start);
  const auto run = [&](const Arg& x, const Arg& y) {
    Commands c = s.Begin();
    s.Submit(c.WriteFloats(1, Range(32)).Kernel("toy.scale", {x, y}, {2}));
    return s.Floats(1, 32);
  };
  // Disjoint rows and disjoint columns of one buffer pass.
  CHECK_EQ(run({1, {2, 8}}, {1, {2, 8}, {}, 16})[31], 30.f);
  CHECK_EQ(run({1, {4, 4}, {8, 1}}, {1, {4, 4}, {8, 1}, 4})[31], 54.f);
  CHECK_THROWS(run({1, {16}}, {1, {16}, {}, 15}), ErrorCode::kDevice,
               "y: is written and overlaps x");
  CHECK_THROWS(run({1, {16}}, {1, {16}}), ErrorCode::kDevice, "overlaps x");
  CHECK_THROWS(run({3, {4, 8}}, {1, {4, 8}, {0, 1}}), ErrorCode::kDevice, "overlaps itself");
  Commands c = s.Begin();
  c.WriteFloats(1, Range(32)).Kernel("toy.accumulate", {{1, {32}}, {1, {32}}});
  s.Submit(c);
  CHECK_THROWS(s.Floats(1, 32), ErrorCode::kDevice,
               "toy.accumulate(f32[32], f32[32]) at step 0: y");
}

TEST(poison_flows_and_the_first_failure_wins) {
  Session s;
  Commands c = TwoBuffers(s, 4);
  c.Alloc(3, 16).Alloc(4, 16).Alloc(5, 16).Mark(12);
  c.Kernel("toy.fail", {{1, {4}}, {2, {4}}}, {7});
  c.Mark(13).Kernel("toy.fail", {{1, {4}}, {3, {4}}}, {1});
  c.WriteFloats(4, Range(4)).Kernel("toy.accumulate", {{4, {4}}, {2, {4}}});  // poisons its target
  c.Kernel("toy.accumulate", {{4, {4}}, {3, {4}}});
  c.Kernel("toy.scale", {{4, {4}}, {5, {4}}}, {1});
  c.Fence(50);
  s.Submit(c);
  CHECK(s.Await(50).ok);
  const char* first = "toy.fail(f32[4], f32[4]) at step 12: the toy failed";
  CHECK_THROWS(s.Floats(2, 4), ErrorCode::kValue, first);
  CHECK_THROWS(s.Floats(5, 4), ErrorCode::kValue, first);
  CHECK_THROWS(s.Floats(3, 4), ErrorCode::kShape, "step 13");
  const auto noted = s.environment->TakeFailure();
  CHECK(noted && noted->message == first && noted->step == 12 && !s.environment->TakeFailure());
  // Part of a buffer does not clear it, the whole does; a poisoned in-place input is no overwrite.
  Commands part = s.Begin();
  part.Kernel("toy.scale", {{1, {2}}, {5, {2}}}, {1});
  part.Kernel("toy.accumulate", {{4, {4}}, {1, {4}}});
  s.Submit(part);
  CHECK_THROWS(s.Floats(5, 4), ErrorCode::kValue, first);
  CHECK_THROWS(s.Floats(4, 4), ErrorCode::kValue, first);
  Commands whole = s.Begin();
  whole.Kernel("toy.scale", {{1, {2, 2}}, {5, {2, 2}}}, {1}).WriteFloats(4, Range(4));
  s.Submit(whole);
  CHECK_EQ(s.Floats(5, 4)[3], 3.f);
  CHECK_EQ(s.Floats(4, 4)[3], 3.f);
}

TEST(mended_contents_count_again) {
  Session s;
  Commands c = TwoBuffers(s, 4);
  c.WriteFloats(1, Range(4)).Alloc(3, 16).WriteFloats(3, Range(4));
  c.Kernel("toy.fail", {{1, {4}}, {2, {4}}}, {7});
  c.Kernel("toy.accumulate", {{3, {4}}, {2, {4}}});  // skipped: its target stands, but is poisoned
  s.Submit(c);
  CHECK_THROWS(s.Floats(3, 4), ErrorCode::kValue, "the toy failed");
  Commands mend = s.Begin();
  mend.Mend(3).Kernel("toy.accumulate", {{3, {4}}, {1, {4}}});
  s.Submit(mend);
  CHECK_EQ(s.Floats(3, 4)[3], 6.f);
  // Nothing makes contents of a buffer that is none, or of one whose allocation failed.
  s.environment->TakeFailure();
  s.Submit(s.Begin().Mend(9));
  CHECK_THROWS(s.Floats(2, 4), ErrorCode::kValue, "the toy failed");
  const auto noted = s.environment->TakeFailure();
  CHECK(noted && noted->message.find("mend: no buffer 9") != std::string::npos);
  s.device->FailAllocation(1);
  Commands empty = s.Begin();
  empty.Alloc(4, 16).Mend(4);
  s.Submit(empty);
  CHECK_THROWS(s.Floats(4, 4), ErrorCode::kOutOfMemory, "alloc");
}

TEST(launcher_errors_of_any_kind) {
  Session s;
  Commands c = TwoBuffers(s, 4);
  c.Kernel("toy.throw_standard", {{1, {4}}, {2, {4}}});
  s.Submit(c);
  CHECK_THROWS(s.Floats(2, 4), ErrorCode::kDevice, "not one of ours");
  Commands d = s.Begin();
  s.Submit(d.Kernel("toy.scale", {{1, {4}}, {2, {2, 2}}}, {1}));
  CHECK_THROWS(s.Floats(2, 4), ErrorCode::kDevice, "not one of ours");  // still the first
}

// Parameter 3, its low part 4, gradient 5, norm 1, state 2.
Commands Parameters(const Session& s) {
  Commands c = s.Begin();
  for (uint32_t id = 1; id <= 5; ++id) c.Alloc(id, 16).WriteFloats(id, Range(4));
  return c;
}

TEST(transactional_leaves_targets_valid) {
  Session s;
  const std::vector<Arg> args = {{1, {4}}, {2, {4}}, {3, {4}}, {4, {4}}, {5, {4}}};
  Commands c = Parameters(s);
  c.Kernel("toy.update", args, {0});
  s.Submit(c);
  CHECK_EQ(s.Floats(3, 4)[3], 6.f);
  CHECK_EQ(s.Floats(4, 4)[0], 7.f);
  Commands poisoned = s.Begin();
  poisoned.Kernel("toy.fail", {{}, {5, {4}}}, {7}).Kernel("toy.update", args, {0});
  s.Submit(poisoned);
  CHECK_EQ(s.Floats(3, 4)[3], 6.f);
  CHECK_EQ(s.Floats(2, 4)[0], 1.f);
  CHECK_THROWS(s.Floats(5, 4), ErrorCode::kValue, "the toy failed");
  Commands thrown = s.Begin();
  thrown.WriteFloats(5, Range(4)).Kernel("toy.update", args, {1});
  s.Submit(thrown);
  CHECK_EQ(s.Floats(3, 4)[3], 6.f);
  CHECK(s.environment->TakeFailure()->message.find("the toy failed") != std::string::npos);
  Commands absent = s.Begin();  // without the low part, and with two groups
  absent.Alloc(6, 16).WriteFloats(6, Range(4));
  absent.Kernel("toy.update", {{1, {4}}, {2, {4}}, {3, {4}}, {}, {5, {4}}, {6, {2}}, {}, {5, {2}}},
                {0});
  s.Submit(absent);
  CHECK_EQ(s.Floats(3, 4)[3], 9.f);
  CHECK_EQ(s.Floats(6, 4)[1], 2.f);
}

TEST(allocation_failure_poisons_and_passes) {
  Session s;
  s.device->FailAllocation(2);
  Commands c = s.Begin().Mark(4);
  c.Alloc(1, 16).WriteFloats(1, Range(4)).Alloc(2, 1600, "toy.scale").Alloc(3, 16);
  c.Kernel("toy.scale", {{1, {4}}, {2, {4}}}, {1});
  c.Kernel("toy.scale", {{2, {4}}, {3, {4}}}, {1});
  s.Submit(c);
  CHECK_THROWS(s.Floats(3, 4), ErrorCode::kOutOfMemory,
               "toy.scale at step 4: out of memory: asked for 1600 bytes, 16 bytes in 1 buffers");
  CHECK_THROWS(s.Floats(2, 4), ErrorCode::kOutOfMemory, "asked for 1600");
  Commands again = s.Begin();
  again.WriteFloats(2, std::vector<float>(400)).Free(2).Alloc(2, 16);
  again.Kernel("toy.scale", {{1, {4}}, {2, {4}}}, {5});
  s.Submit(again);
  CHECK_EQ(s.Floats(2, 4)[3], 15.f);
  s.Submit(s.Begin().Free(1).Free(2).Free(3));
  s.Fence();
  CHECK_EQ(s.device->memory().live_bytes, 0);
  CHECK_EQ(s.device->memory().live_buffers, 0);
}

TEST(workspace_failure_poisons_the_output) {
  Session s;
  s.Submit(s.Begin().Alloc(1, 8000).WriteFloats(1, Range(2000)).Alloc(2, 4));
  s.Fence();
  s.device->FailAllocation(1);
  Commands c = s.Begin();
  s.Submit(c.Kernel("toy.sum", {{1, {2000}}, {2, {1}}}));
  CHECK_THROWS(s.Floats(2, 1), ErrorCode::kOutOfMemory,
               "toy.sum(f32[2000], f32[1]) at step 0: workspace");
  s.Submit(c);
  CHECK(s.Floats(2, 1)[0] > 0);
}

TEST(protocol_errors_do_no_harm) {
  Session s;
  Commands c =
      s.Begin().Alloc(1, 16).Alloc(1, 32).Free(7).WriteFloats(8, Range(2)).Alloc(2, 0).Free(2);
  s.Submit(c);
  CHECK_THROWS(s.Floats(1, 4), ErrorCode::kDevice, "alloc: buffer 1 lives already");
  s.Submit(s.Begin().Free(1).Free(1));
  s.Fence();
  CHECK_EQ(s.device->memory().live_bytes, 0);
}

TEST(empty_tensors) {
  Session s;
  Commands c = s.Begin().Alloc(1, 0).Alloc(2, 0);
  c.Kernel("toy.scale", {{1, {0, 5}}, {2, {0, 5}}}, {1});
  s.Submit(c);
  CHECK_EQ(s.Floats(2, 0).size(), 0u);
}

TEST(bits_do_not_depend_on_threads) {
  std::vector<float> bits;
  for (const int threads : {1, 2, 3, 7}) {
    Session s({.threads = threads});
    std::vector<float> x(100'001);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i)) * 1e3f;
    Commands c = s.Begin().Alloc(1, 400'004).WriteFloats(1, x);
    for (uint32_t id = 2; id < 12; ++id) {
      c.Alloc(id, 4).Kernel("toy.sum", {{1, {100'001}}, {id, {1}}});
    }
    s.Submit(c);
    for (uint32_t id = 2; id < 12; ++id) bits.push_back(s.Floats(id, 1)[0]);
  }
  for (const float b : bits) CHECK_EQ(std::bit_cast<uint32_t>(b), std::bit_cast<uint32_t>(bits[0]));
}

TEST(tracing) {
  Session s;
  s.device->SetTracing(true);
  Commands c = TwoBuffers(s, 4);
  c.Mark(3).Kernel("toy.scale", {{1, {4}}, {2, {4}}}, {1});
  s.Submit(c);
  s.Fence();
  s.device->SetTracing(false);
  const auto events = s.device->TakeTrace();
  CHECK_EQ(events.size(), 4u);
  const TraceEvent& e = events.back();
  CHECK_EQ(e.code, c.CodeOf("toy.scale"));
  CHECK_EQ(e.step, 3u);
  CHECK_EQ(e.bytes, 32);
  CHECK_EQ(e.shapes, "(f32[4], f32[4])");
  CHECK(e.end_ns >= e.start_ns);
  CHECK_EQ(s.device->TakeTrace().size(), 0u);
}

TEST(guarded_device) {
  Session s({.threads = 2, .guard = true});
  Commands c = s.Begin().Alloc(1, 4 * 1500).Alloc(2, 4).Alloc(3, 16);
  c.WriteFloats(1, Range(1500)).Kernel("toy.sum", {{1, {1500}}, {2, {1}}});
  s.Submit(c);
  CHECK(s.Floats(2, 1)[0] > 0);
  CHECK(std::isnan(s.Floats(3, 4)[0]));  // never written
}

}  // namespace
}  // namespace fuselm::test
