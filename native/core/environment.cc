#include "native/core/environment.h"

#include <iterator>

#include "native/core/device.h"

namespace fuselm {

void EventSet::Add(uint32_t event) {
  auto next = ranges_.upper_bound(event);
  if (next != ranges_.begin()) {
    auto before = std::prev(next);
    if (before->second >= event) return;
    if (before->second + 1 == event) {
      before->second = event;
      if (next != ranges_.end() && next->first - 1 == event) {
        before->second = next->second;
        ranges_.erase(next);
      }
      return;
    }
  }
  uint32_t last = event;
  if (next != ranges_.end() && next->first - 1 == event) {
    last = next->second;
    ranges_.erase(next);
  }
  ranges_[event] = last;
}

bool EventSet::Contains(uint32_t event) const {
  auto next = ranges_.upper_bound(event);
  return next != ranges_.begin() && std::prev(next)->second >= event;
}

void EnvironmentImpl::Complete(Completion completion) {
  bool first;
  {
    std::lock_guard lock(mutex);
    first = completions.empty();
    completions.push_back(std::move(completion));
  }
  if (first && !closing && notify_) notify_();
}

void EnvironmentImpl::Complete(uint32_t token, const FailurePtr& f) {
  if (f) {
    Complete({token, false, f->code, f->message, f->step});
  } else {
    Complete({token, true, ErrorCode{}, {}, 0});
  }
}

std::optional<HostMemory> EnvironmentImpl::TakeHost(uint32_t token) {
  std::lock_guard lock(mutex);
  const auto found = hosts.find(token);
  if (found == hosts.end()) return std::nullopt;
  const HostMemory memory = found->second;
  hosts.erase(found);
  return memory;
}

void EnvironmentImpl::NoteFailure(const Failure& f) {
  std::lock_guard lock(mutex);
  if (!failure) failure = Completion{0, false, f.code, f.message, f.step};
}

Environment::Environment(std::shared_ptr<Device> device, std::function<void()> notify) {
  DeviceImpl& impl = *device->impl_;
  impl_ = std::make_unique<EnvironmentImpl>(std::move(device), impl, std::move(notify));
  impl.executor.Add(*impl_);
}

Environment::~Environment() { Close(); }

uint32_t Environment::CreateQueue(int priority) {
  return impl_->device.executor.CreateQueue(*impl_, priority).id;
}

void Environment::Submit(uint32_t queue, std::span<const uint32_t> words) {
  // Copied before it is looked at: the caller's memory may be shared with another thread.
  std::vector<uint32_t> copy(words.begin(), words.end());
  const Framing framing = CheckFraming(copy, impl_->device.kernels);
  if (!framing.uploads.empty()) {
    std::lock_guard lock(impl_->mutex);
    for (const uint32_t token : framing.uploads) {
      const auto host = impl_->hosts.find(token);
      if (host == impl_->hosts.end() || host->second.counted > 0) continue;
      host->second.counted = host->second.bytes;
      impl_->pending_bytes += host->second.bytes;
    }
  }
  impl_->device.executor.Submit(*impl_, queue, std::move(copy), framing.records);
}

void Environment::RegisterHost(uint32_t token, void* data, size_t bytes) {
  std::lock_guard lock(impl_->mutex);
  impl_->hosts[token] = {static_cast<std::byte*>(data), static_cast<int64_t>(bytes)};
}

std::vector<Completion> Environment::TakeCompletions() {
  std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->completions, {});
}

std::optional<Completion> Environment::TakeFailure() {
  std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->failure, std::nullopt);
}

void Environment::Cancel(uint32_t owner) { impl_->device.executor.Cancel(*impl_, owner); }
int64_t Environment::pending_commands() const { return impl_->pending_commands; }
int64_t Environment::pending_bytes() const { return impl_->pending_bytes; }

void Environment::Close() { impl_->device.executor.Close(*impl_); }

}  // namespace fuselm
