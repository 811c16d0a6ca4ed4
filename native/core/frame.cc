#include <algorithm>

#include "native/core/executor.h"
#include "native/core/futex.h"

namespace fuselm {

Frame::Frame(Executor& e, int d) : executor(e), depth(d), scratch_(d == 0 ? e.pool.workers() : 1) {}

int Frame::workers() const { return static_cast<int>(scratch_.size()); }

void Frame::Run(int64_t tiles, TileFn fn, void* closure) {
  bool all = !cancelled();
  if (all && tiles > 0) {
    all = depth == 0 ? executor.pool.Run(tiles, fn, closure, *this)
                     : ThreadPool::RunAlone(tiles, fn, closure, *this);
  }
  if (!all) throw Error(ErrorCode::kAborted, "cancelled while it ran");
}

bool Frame::BeforeTile() {
  if (cancelled()) return false;
  if (executor.ready_priority_.load(std::memory_order_relaxed) > queue->priority) {
    executor.RunNested(*this);
    return !cancelled();
  }
  return true;
}

std::byte* Frame::Scratch(int worker, size_t bytes) {
  Block& block = scratch_[worker];
  const auto wanted = static_cast<int64_t>(bytes);
  if (!block || block.bytes < wanted || (executor.guard && block.bytes != wanted)) {
    if (block) executor.backend.Free(*queue, block, MemoryUse::kWorkspace);
    block = executor.backend.Allocate(*queue, wanted, MemoryUse::kWorkspace, "scratch");
  }
  return block.data;
}

void Frame::ReserveScratch(size_t bytes_per_worker) {
  for (int w = 0; w < workers(); ++w) Scratch(w, bytes_per_worker);
}

std::byte* Frame::Workspace(size_t bytes) {
  workspaces_.push_back(executor.backend.Allocate(*queue, static_cast<int64_t>(bytes),
                                                  MemoryUse::kWorkspace, "workspace"));
  return workspaces_.back().data;
}

void Frame::FreeWorkspaces() {
  for (Block& block : workspaces_) executor.backend.Free(*queue, block, MemoryUse::kWorkspace);
  workspaces_.clear();
}

void Frame::FreeScratch() {
  for (Block& block : scratch_) executor.backend.FreeLeft(block, MemoryUse::kWorkspace);
}

void Frame::Pin(int by) {
  for (const Argument& a : command.arguments) {
    if (!a.buffer) continue;
    uint16_t& count = a.role->written() ? a.buffer->writers : a.buffer->readers;
    count = static_cast<uint16_t>(count + by);
  }
}

}  // namespace fuselm
