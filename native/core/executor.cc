#include "native/core/executor.h"

#include <algorithm>
#include <limits>

#include "native/core/futex.h"

namespace fuselm {
namespace {

constexpr int kMaxDepth = 4;
constexpr int64_t kNobody = std::numeric_limits<int64_t>::min();
constexpr int64_t kAbove = std::numeric_limits<int64_t>::max();
// Nested commands may take this many times what the outer one's own tiles on worker 0 took since
// the last visit, so that it makes progress on a single thread too.
constexpr int64_t kNestedShare = 4;
constexpr int64_t kNestedSliceNs = 4'000'000;

}  // namespace

Executor::Executor(KernelTable& k, Backend& b, ThreadPool& p, Trace& t, bool g)
    : kernels(k), backend(b), pool(p), trace(t), guard(g), ready_priority_(kNobody) {
  for (int depth = 0; depth < kMaxDepth; ++depth) {
    frames_.push_back(std::make_unique<Frame>(*this, depth));
  }
  thread_ = std::thread([this] { Loop(); });
}

Executor::~Executor() {
  Stop(std::chrono::hours(1));
  Join();
  for (auto& frame : frames_) frame->FreeScratch();
}

void Executor::Wake() {
  work_.fetch_add(1);
  if (sleeping_.load()) FutexWake(work_);
}

void Executor::Add(EnvironmentImpl& environment) {
  std::lock_guard lock(mutex_);
  environments_.push_back(&environment);
}

Queue& Executor::CreateQueue(EnvironmentImpl& environment, int priority) {
  std::lock_guard lock(mutex_);
  auto queue = std::make_unique<Queue>();
  queue->environment = &environment;
  queue->id = static_cast<uint32_t>(environment.queues.size());
  queue->priority = priority;
  environment.queues.push_back(std::move(queue));
  return *environment.queues.back();
}

void Executor::Submit(EnvironmentImpl& environment, uint32_t id, std::vector<uint32_t> words,
                      int64_t records) {
  {
    std::lock_guard lock(mutex_);
    if (environment.closing) throw Error(ErrorCode::kDevice, "the environment is closed");
    if (id >= environment.queues.size()) {
      throw Error(ErrorCode::kDevice, "no queue " + std::to_string(id));
    }
    if (words.empty()) return;
    Queue& queue = *environment.queues[id];
    environment.pending_commands += records;
    environment.pending_bytes += static_cast<int64_t>(words.size() * sizeof(uint32_t));
    queue.submitted += static_cast<uint64_t>(records);
    queue.batches.push_back(std::move(words));
    UpdateReady();
  }
  Wake();
}

void Executor::Cancel(EnvironmentImpl& environment, uint32_t owner) {
  if (owner == 0) return;  // nobody
  std::lock_guard lock(mutex_);
  std::vector<uint64_t> until;
  for (const auto& queue : environment.queues) until.push_back(queue->submitted);
  environment.cancelled[owner] = std::move(until);
  for (int i = 0; i < running_frames_; ++i) {
    Frame& frame = *frames_[i];
    if (frame.queue->environment == &environment && frame.owner == owner && !frame.transactional) {
      frame.cancel = true;
    }
  }
}

void Executor::Close(EnvironmentImpl& environment) {
  std::unique_lock lock(mutex_);
  environment.closing = true;
  for (int i = 0; i < running_frames_; ++i) {
    // Transactional ones too: nobody will see the buffers they leave.
    if (frames_[i]->queue->environment == &environment) frames_[i]->cancel = true;
  }
  UpdateReady();
  Wake();
  changed_.wait(lock, [&] { return environment.closed || ended_; });
  if (environment.closed) return;
  // The process exits and the thread has ended: this one may do its work.
  backend.Leave(environment);
  FreeBuffers(environment);
  std::erase(environments_, &environment);
  environment.closed = true;
}

bool Executor::Stop(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  stop_ = true;
  for (int i = 0; i < running_frames_; ++i) frames_[i]->cancel = true;
  Wake();
  return changed_.wait_for(lock, limit, [&] { return ended_; });
}

bool Executor::Ready(const Queue& queue) const {
  const uint32_t* head = queue.head();
  if (!head || queue.running || queue.environment->closing) return false;
  return head[1] != kWait || queue.environment->events.Contains(head[kHeaderWords]);
}

void Executor::UpdateReady() {
  int64_t best = kNobody;
  for (const EnvironmentImpl* environment : environments_) {
    for (const auto& queue : environment->queues) {
      if (queue->priority > best && Ready(*queue)) best = queue->priority;
    }
  }
  ready_priority_.store(best, std::memory_order_relaxed);
}

// Forgets an owner once every queue has started what was submitted before its cancellation.
bool Executor::Drained(EnvironmentImpl& environment, const Queue& queue, uint32_t owner) {
  if (environment.cancelled.empty()) return false;
  const auto past = [&](const std::vector<uint64_t>& until) {
    for (size_t i = 0; i < until.size(); ++i) {
      if (environment.queues[i]->started < until[i]) return false;
    }
    return true;
  };
  const auto found = environment.cancelled.find(owner);
  // `started` does not count this record yet.
  const bool drained = found != environment.cancelled.end() && queue.id < found->second.size() &&
                       queue.started < found->second[queue.id];
  std::erase_if(environment.cancelled, [&](const auto& entry) { return past(entry.second); });
  return drained;
}

Executor::Task Executor::Next(const Task& done, int64_t priority, int depth) {
  std::lock_guard lock(mutex_);
  if (done.queue) {
    Queue& queue = *done.queue;
    queue.running = false;
    queue.cursor += done.record[0];
    if (queue.cursor == queue.batches.front().size()) {
      queue.batches.pop_front();
      queue.cursor = 0;
    }
    running_frames_ = depth;
  }
  Task task;
  if (!stop_) {
    for (EnvironmentImpl* environment : environments_) {
      for (const auto& queue : environment->queues) {
        if (queue->priority <= priority || !Ready(*queue)) continue;
        if (!task.queue || queue->priority > task.queue->priority ||
            (queue->priority == task.queue->priority && queue->served < task.queue->served)) {
          task.queue = queue.get();
        }
      }
    }
  }
  if (task.queue) {
    Queue& queue = *task.queue;
    Frame& frame = *frames_[depth];
    task.record = queue.head();
    task.drained = Drained(*queue.environment, queue, task.record[2]);
    queue.running = true;
    queue.started += 1;
    queue.served = ++serving_;
    const uint32_t code = task.record[1];
    frame.queue = &queue;
    frame.owner = task.record[2];
    frame.transactional =
        code >= kFirstKernelCode && kernels[code - kFirstKernelCode].transactional;
    frame.cancel = false;
    running_frames_ = depth + 1;
  }
  UpdateReady();
  return task;
}

void Executor::Loop() {
  PrepareWorkerThread("fuselm-exec");
  Task done;
  for (;;) {
    const uint32_t seen = work_.load();
    const Task task = Next(done, kNobody, 0);
    done = {};
    if (task.queue) {
      Execute(task, 0);
      done = task;
      continue;
    }
    FinishClosing();
    {
      std::lock_guard lock(mutex_);
      if (stop_) {
        ended_ = true;
        changed_.notify_all();
        return;
      }
    }
    const auto more = [&] { return work_.load() != seen; };
    if (SpinUntil(more)) continue;
    sleeping_.store(true);
    while (!more()) FutexWait(work_, seen);
    sleeping_.store(false);
  }
}

void Executor::FinishClosing() {
  std::vector<EnvironmentImpl*> closing;
  {
    std::lock_guard lock(mutex_);
    for (EnvironmentImpl* environment : environments_) {
      if (environment->closing) closing.push_back(environment);
    }
  }
  // Without the lock: a device may take its time.
  for (EnvironmentImpl* environment : closing) backend.Leave(*environment);
  std::lock_guard lock(mutex_);
  for (EnvironmentImpl* environment : closing) {
    FreeBuffers(*environment);
    std::erase(environments_, environment);
    environment->closed = true;
    changed_.notify_all();
  }
}

void Executor::FreeBuffers(EnvironmentImpl& environment) {
  const auto aborted = std::make_shared<const Failure>(
      Failure{ErrorCode::kAborted, "the environment was closed", 0, failures_});
  for (const auto& queue : environment.queues) {
    for (const uint32_t* record; (record = queue->head());) {
      if (record[1] == kUpload) environment.Complete(record[6], aborted);
      if (record[1] == kRead) environment.Complete(record[8], aborted);
      if (record[1] == kFence) environment.Complete(record[3], aborted);
      queue->cursor += record[0];
      if (queue->cursor == queue->batches.front().size()) {
        queue->batches.pop_front();
        queue->cursor = 0;
      }
    }
  }
  environment.pending_commands = 0;
  environment.pending_bytes = 0;
  environment.buffers.ForEach([&](Buffer& buffer) {
    backend.FreeLeft(buffer.block, MemoryUse::kBuffer);
    buffer = {};
  });
}

// On worker 0, between two tiles of the command in `outer`.
void Executor::RunNested(Frame& outer) {
  const int64_t begin = NowNs();
  if (outer.depth + 1 >= kMaxDepth ||
      outer.last_nested_ns > kNestedShare * (begin - outer.resumed_ns)) {
    return;
  }
  const auto outer_waits = [&] { return outer.depth > 0 || pool.tiles_left(); };
  if (!outer_waits()) return;
  const int depth = outer.depth + 1;
  const int64_t priority = outer.queue->priority;
  outer.Pin(+1);
  int64_t now = begin;
  for (Task task = Next({}, priority, depth); task.queue;) {
    Execute(task, depth);
    now = NowNs();
    const bool more = outer_waits() && !outer.cancelled() && now - begin < kNestedSliceNs;
    task = Next(task, more ? priority : kAbove, depth);
  }
  outer.Pin(-1);
  outer.last_nested_ns = now - begin;
  outer.nested_ns += now - begin;
  outer.resumed_ns = now;
}

}  // namespace fuselm
