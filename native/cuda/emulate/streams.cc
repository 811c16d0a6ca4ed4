// Streams that run late: what is enqueued stands in a list until something needs it.
#include <cstdio>
#include <cstdlib>

#include "native/core/error.h"
#include "native/cuda/emulate/world.h"

namespace fuselm::emulate {
namespace {

constexpr size_t kMostPending = 1024;  // launches past this many wait for the device

}  // namespace

void Fatal(const std::string& what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  std::abort();
}

void Stream::Enqueue(std::function<void()> body) {
  std::lock_guard lock(TheWorld().mutex);
  Add({.run = std::move(body)});
}

void Stream::Add(Work item) {
  World& world = TheWorld();
  work.push_back(std::move(item));
  if (!world.late) {
    while (!work.empty()) Step();
    return;
  }
  world.Progress();
  while (work.size() > kMostPending) {
    auto last = std::make_shared<Marker>(Marker{false, this});
    work.insert(work.begin() + kMostPending / 2, Work{.reached = last});
    world.Reach(last);
  }
}

bool Stream::Step() {
  World& world = TheWorld();
  Work& first = work.front();
  if (first.waits && !first.waits->done) return false;
  Work item = std::move(first);
  work.pop_front();
  if (item.reached) item.reached->done = true;
  // After a fault nothing runs any more; what is waited for reports it.
  if (!item.run || world.fault != cudaSuccess) return true;
  if (!world.late) {
    item.run();
    return true;
  }
  try {
    item.run();
  } catch (const Error& e) {
    world.Fault(cudaErrorLaunchFailure, e.what());
  }
  return true;
}

uint32_t World::Draw(uint32_t below) {
  random += 0x9e3779b97f4a7c15u;  // SplitMix64 (Steele, Lea & Flood 2014)
  uint64_t z = random;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((z ^ z >> 31) % below);
}

void World::Reach(const MarkerPtr& marker) {
  enum { kLate, kAnyOrder, kOthersFirst };
  const uint32_t order = Draw(3);
  if (order == kOthersFirst) {
    for (bool moved = true; moved;) {
      moved = false;
      for (const auto& s : streams) {
        while (s.get() != marker->stream && !s->work.empty() && s->Step()) moved = true;
      }
    }
  }
  while (!marker->done) {
    if (order == kAnyOrder) {
      Stream& s = *streams[Draw(static_cast<uint32_t>(streams.size()))];
      if (!s.work.empty() && s.Step()) continue;
    }
    // What the marker needs, and no more.
    Stream* s = marker->stream;
    for (size_t depth = 0; !s->Step(); ++depth) {
      if (depth > streams.size()) Fatal("streams wait for each other");
      s = s->work.front().waits->stream;
    }
  }
}

void World::Drain() {
  for (bool left = true; left;) {
    left = false;
    for (const auto& s : streams) {
      if (s->work.empty()) continue;
      left = true;
      auto last = std::make_shared<Marker>(Marker{false, s.get()});
      s->work.push_back({.reached = last});
      Reach(last);
    }
  }
}

void World::Progress() {
  if (!late || Draw(16) != 0) return;
  for (uint32_t steps = Draw(32); steps > 0; --steps) {
    Stream& s = *streams[Draw(static_cast<uint32_t>(streams.size()))];
    if (!s.work.empty()) s.Step();
  }
}

void World::Fault(cudaError_t error, const std::string& text) {
  if (fault != cudaSuccess) return;
  fault = error;
  fault_text = text;
  std::fprintf(stderr, "emulated CUDA: %s\n", text.c_str());
}

}  // namespace fuselm::emulate
