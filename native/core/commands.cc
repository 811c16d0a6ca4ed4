// What each record does. All of it runs on the executor's thread.
#include <algorithm>
#include <cstring>
#include <new>

#include "native/core/executor.h"
#include "native/core/futex.h"

namespace fuselm {
namespace {

// Roles of the single argument of write, upload and read, for Pin and the check below.
const SignatureArg kTarget{"target", false, false, true};
const SignatureArg kSource{"source", false, false, false};

std::string Id(uint32_t id) { return "buffer " + std::to_string(id); }

// A nested command must not touch what a command below it on the stack uses.
bool InUse(const Argument& a) {
  return a.buffer->writers > 0 || (a.role->written() && a.buffer->readers > 0);
}

void SetArgument(Frame& frame, Buffer* buffer, uint32_t id, const SignatureArg& role) {
  frame.command.views.clear();
  frame.command.arguments.assign(1, Argument{buffer, &role, {}, id});
}

}  // namespace

FailurePtr Executor::Fail(const Task& task, ErrorCode code, const std::string& message) {
  auto failure =
      std::make_shared<const Failure>(Failure{code, message, task.queue->step, ++failures_});
  if (code != ErrorCode::kAborted) task.queue->environment->NoteFailure(*failure);
  return failure;
}

void Executor::Dispatch(const Task& task, Frame& frame) {
  const uint32_t* record = task.record;
  const uint32_t code = record[1];
  switch (code) {
    case kAlloc:
      Allocate(task);
      frame.command.bytes = Int64At(record + 4);
      break;
    case kFree: Release(task); break;
    case kWrite: Write(task, frame); break;
    case kUpload: Upload(task, frame); break;
    case kRead: Read(task, frame); break;
    case kFence: backend.Complete(*task.queue, record[3], nullptr); break;
    case kSignal: Signal(task); break;
    case kWait: backend.Wait(*task.queue, record[3]); break;  // Ready() let it through
    case kMark: task.queue->step = record[3]; break;
    case kMend: Mend(task); break;
    default: RunKernel(task, frame, kernels[code - kFirstKernelCode]);
  }
}

void Executor::Execute(const Task& task, int depth) {
  Frame& frame = *frames_[depth];
  EnvironmentImpl& environment = *task.queue->environment;
  const uint32_t* record = task.record;
  const uint32_t code = record[1];
  const int64_t start = NowNs();
  frame.nested_ns = 0;
  frame.last_nested_ns = 0;
  frame.resumed_ns = start;
  frame.command.arguments.clear();
  frame.command.bytes = 0;
  // Before it runs: who is told of its completion no longer sees it pending.
  environment.pending_commands -= 1;
  environment.pending_bytes -= static_cast<int64_t>(record[0] * sizeof(uint32_t));
  try {
    Dispatch(task, frame);
    if (trace.on() && (code >= kFirstKernelCode || (code <= kRead && code != kFree))) {
      backend.Settle(*task.queue);
      trace.Add({code, task.queue->id, task.queue->step, start, NowNs(), frame.command.bytes,
                 code >= kFirstKernelCode ? DescribeShapes(frame.command.views) : std::string()});
    }
  } catch (const Error& e) {
    Fail(task, e.code(), e.what());
  } catch (const std::exception& e) {
    Fail(task, ErrorCode::kDevice, e.what());
  }
  if (depth == 0) {
    for (Block& block : deferred_) backend.Free(*task.queue, block, MemoryUse::kBuffer);
    deferred_.clear();
  }
}

// ------------------------------------------------------------------------------------ kernels

void Executor::RunKernel(const Task& task, Frame& frame, KernelEntry& kernel) {
  Decoded& c = frame.command;
  const std::string& op = kernel.signature.op;
  const auto fail = [&](ErrorCode code, const std::string& what) {
    return Fail(task, code,
                op + DescribeShapes(c.views) + " at step " + std::to_string(task.queue->step) +
                    ": " + what);
  };
  FailurePtr failure;
  std::string invalid;
  ErrorCode invalid_code = ErrorCode::kDevice;
  frame.op = op.c_str();
  try {
    Decode(task.record, kernel, task.queue->environment->buffers, c);
    for (const Argument& a : c.arguments) {
      if (a.buffer && InUse(a)) {
        throw Error(ErrorCode::kDevice, a.role->name + ": " + Id(a.id) +
                                            " is in use by a running command of another queue");
      }
    }
  } catch (const Error& e) {
    invalid = e.what();
    invalid_code = e.code();
  }
  for (const Argument& a : c.arguments) {
    if (a.buffer && (!a.role->output || !a.buffer->block)) {
      failure = Earlier(failure, a.buffer->poison);
    }
  }
  if (!failure) {
    if (task.drained) {
      failure = fail(ErrorCode::kAborted, "cancelled before it ran");
    } else if (!invalid.empty()) {
      failure = fail(invalid_code, invalid);
    }
  }
  if (!failure) {
    try {
      backend.Invoke(frame, kernel);
    } catch (const Error& e) {
      failure = fail(e.code(), e.what());
    } catch (const std::bad_alloc&) {
      failure = fail(ErrorCode::kOutOfMemory, "out of memory in the launcher");
    } catch (const std::exception& e) {
      failure = fail(ErrorCode::kDevice, e.what());
    }
    frame.FreeWorkspaces();
  }
  for (size_t i = 0; i < c.arguments.size(); ++i) {
    const Argument& a = c.arguments[i];
    if (!a.buffer || !a.role->written()) continue;
    Buffer& buffer = *a.buffer;
    if (failure) {
      if (!(kernel.transactional && a.role->in_place))
        buffer.poison = Earlier(buffer.poison, failure);
      continue;
    }
    buffer.version += 1;
    // A written view has no element twice, so one as large as its buffer covers it.
    const int64_t bytes = a.at.numel * static_cast<int64_t>(ItemSize(c.views[i].dtype));
    if (a.role->output && bytes == buffer.bytes) buffer.poison = nullptr;
  }
}

// ----------------------------------------------------------------------------------- controls

void Executor::Signal(const Task& task) {
  try {
    backend.Signal(*task.queue, task.record[3]);
  } catch (const Error& e) {
    Fail(task, e.code(), e.what());
  }
  // Also then: a wait without its signal would hang its queue.
  std::lock_guard lock(mutex_);
  task.queue->environment->events.Add(task.record[3]);
}

void Executor::Allocate(const Task& task) {
  const uint32_t id = task.record[3], for_code = task.record[6];
  const int64_t bytes = Int64At(task.record + 4);
  Buffer& buffer = task.queue->environment->buffers.Slot(id);
  if (buffer.live) {
    buffer.poison = Earlier(buffer.poison,
                            Fail(task, ErrorCode::kDevice, "alloc: " + Id(id) + " lives already"));
    return;
  }
  buffer.live = true;
  buffer.bytes = bytes;
  buffer.version = 0;
  buffer.poison = nullptr;
  try {
    const uint32_t kernel = for_code - kFirstKernelCode;
    const bool known = for_code >= kFirstKernelCode && kernel < kernels.size();
    buffer.block = backend.Allocate(*task.queue, bytes, MemoryUse::kBuffer,
                                    (known ? kernels[kernel].signature.op : "alloc") + " at step " +
                                        std::to_string(task.queue->step));
  } catch (const Error& e) {
    buffer.poison = Fail(task, e.code(), e.what());
  }
}

void Executor::Release(const Task& task) {
  const uint32_t id = task.record[3];
  Buffer* buffer = task.queue->environment->buffers.Find(id);
  if (!buffer) {
    Fail(task, ErrorCode::kDevice, "free: no " + Id(id));
    return;
  }
  if (buffer->readers > 0 || buffer->writers > 0) {
    // The slot keeps its counts for the command below, which will take them back.
    deferred_.push_back(buffer->block);
    buffer->block = {};
  } else {
    backend.Free(*task.queue, buffer->block, MemoryUse::kBuffer);
  }
  buffer->live = false;
  buffer->poison = nullptr;
}

void Executor::Mend(const Task& task) {
  const uint32_t id = task.record[3];
  Buffer* buffer = task.queue->environment->buffers.Find(id);
  if (!buffer) {
    Fail(task, ErrorCode::kDevice, "mend: no " + Id(id));
  } else if (buffer->block) {  // one that was never allocated holds nothing
    buffer->poison = nullptr;
  }
}

// Puts host bytes into a buffer; the failure of doing so, which then also poisons the buffer.
FailurePtr Executor::Store(const Task& task, Frame& frame, uint32_t id, int64_t offset,
                           const std::byte* data, int64_t bytes, const char* op) {
  Buffer* buffer = task.queue->environment->buffers.Find(id);
  if (!buffer) return Fail(task, ErrorCode::kDevice, std::string(op) + ": no " + Id(id));
  SetArgument(frame, buffer, id, kTarget);
  frame.command.bytes = bytes;
  FailurePtr failure;
  if (offset > buffer->bytes || bytes > buffer->bytes - offset) {
    failure = Fail(task, ErrorCode::kDevice,
                   std::string(op) + ": " + std::to_string(bytes) + " bytes at " +
                       std::to_string(offset) + " leave " + Id(id) + " of " +
                       std::to_string(buffer->bytes) + " bytes");
  } else if (InUse(frame.command.arguments[0])) {
    failure =
        Fail(task, ErrorCode::kDevice,
             std::string(op) + ": " + Id(id) + " is in use by a running command of another queue");
  } else if (!buffer->block) {
    return buffer->poison;
  } else {
    try {
      backend.CopyIn(frame, buffer->block.data + offset, data, bytes);
    } catch (const Error& e) {
      failure = Fail(task, e.code(), std::string(op) + ": " + e.what());
    }
  }
  if (failure) {
    buffer->poison = Earlier(buffer->poison, failure);
    return failure;
  }
  buffer->version += 1;
  if (bytes == buffer->bytes) buffer->poison = nullptr;
  return nullptr;
}

void Executor::Write(const Task& task, Frame& frame) {
  const uint32_t* r = task.record;
  Store(task, frame, r[3], Int64At(r + 4), reinterpret_cast<const std::byte*>(r + 7), r[6],
        "write");
}

void Executor::Upload(const Task& task, Frame& frame) {
  const uint32_t* r = task.record;
  EnvironmentImpl& environment = *task.queue->environment;
  const auto host = environment.TakeHost(r[6]);
  FailurePtr failure;
  if (host) {
    failure = Store(task, frame, r[3], Int64At(r + 4), host->data, host->bytes, "upload");
    environment.pending_bytes -= host->counted;
  } else {
    failure = Fail(task, ErrorCode::kDevice,
                   "upload: no memory registered for token " + std::to_string(r[6]));
    if (Buffer* buffer = environment.buffers.Find(r[3])) {
      buffer->poison = Earlier(buffer->poison, failure);
    }
  }
  environment.Complete(r[6], failure);
}

void Executor::Read(const Task& task, Frame& frame) {
  const uint32_t* r = task.record;
  EnvironmentImpl& environment = *task.queue->environment;
  const uint32_t id = r[3];
  const int64_t offset = Int64At(r + 4), bytes = Int64At(r + 6);
  const auto host = environment.TakeHost(r[8]);
  Buffer* buffer = environment.buffers.Find(id);
  FailurePtr failure;
  const auto fail = [&](const std::string& what) {
    failure = Fail(task, ErrorCode::kDevice, "read: " + what);
  };
  if (!host) {
    fail("no memory registered for token " + std::to_string(r[8]));
  } else if (!buffer) {
    fail("no " + Id(id));
  } else if (offset > buffer->bytes || bytes > buffer->bytes - offset || bytes > host->bytes) {
    fail(std::to_string(bytes) + " bytes at " + std::to_string(offset) + " leave " + Id(id) +
         " of " + std::to_string(buffer->bytes) + " bytes or host memory of " +
         std::to_string(host->bytes));
  } else if (buffer->poison) {
    failure = buffer->poison;
  } else {
    SetArgument(frame, buffer, id, kSource);
    frame.command.bytes = bytes;
    if (InUse(frame.command.arguments[0])) {
      fail(Id(id) + " is in use by a running command of another queue");
    } else {
      try {
        backend.CopyOut(frame, host->data, buffer->block.data + offset, bytes);
      } catch (const Error& e) {
        failure = Fail(task, e.code(), std::string("read: ") + e.what());
      }
    }
  }
  backend.Complete(*task.queue, r[8], failure);
}

}  // namespace fuselm
