#include "native/test/session.h"

#include <thread>

#include "native/test/harness.h"

namespace fuselm::test {
namespace {

void Push64(std::vector<uint32_t>& words, int64_t value) {
  words.push_back(static_cast<uint32_t>(value));
  words.push_back(static_cast<uint32_t>(static_cast<uint64_t>(value) >> 32));
}

}  // namespace

Commands::Commands(const Device& device) {
  uint32_t code = kFirstKernelCode;
  for (const DeviceKernel& k : device.kernels()) {
    codes_[k.signature.substr(0, k.signature.find('('))] = code++;
  }
}

uint32_t Commands::CodeOf(const std::string& op) const { return codes_.at(op); }

Commands& Commands::Control(uint32_t code, std::initializer_list<uint32_t> fields) {
  words.push_back(static_cast<uint32_t>(3 + fields.size()));
  words.push_back(code);
  words.push_back(owner);
  words.insert(words.end(), fields);
  return *this;
}

Commands& Commands::Alloc(uint32_t id, int64_t bytes, const std::string& kernel) {
  const auto wide = static_cast<uint64_t>(bytes);
  return Control(kAlloc, {id, static_cast<uint32_t>(wide), static_cast<uint32_t>(wide >> 32),
                          kernel.empty() ? 0 : CodeOf(kernel)});
}
Commands& Commands::Free(uint32_t id) { return Control(kFree, {id}); }
Commands& Commands::Write(uint32_t id, int64_t offset, std::span<const std::byte> data) {
  const size_t payload = (data.size() + 3) / 4;
  words.insert(words.end(), {static_cast<uint32_t>(7 + payload), kWrite, owner, id});
  Push64(words, offset);
  words.push_back(static_cast<uint32_t>(data.size()));
  const size_t at = words.size();
  words.resize(at + payload);
  if (!data.empty()) std::memcpy(&words[at], data.data(), data.size());
  return *this;
}
Commands& Commands::WriteFloats(uint32_t id, const std::vector<float>& values, int64_t offset) {
  return Write(id, offset, std::as_bytes(std::span(values)));
}
Commands& Commands::Upload(uint32_t id, int64_t offset, uint32_t token) {
  return Control(kUpload,
                 {id, static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32), token});
}
Commands& Commands::Read(uint32_t id, int64_t offset, int64_t bytes, uint32_t token) {
  return Control(kRead, {id, static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32),
                         static_cast<uint32_t>(bytes), static_cast<uint32_t>(bytes >> 32), token});
}
Commands& Commands::Fence(uint32_t token) { return Control(kFence, {token}); }
Commands& Commands::Signal(uint32_t event) { return Control(kSignal, {event}); }
Commands& Commands::Wait(uint32_t event) { return Control(kWait, {event}); }
Commands& Commands::Mark(uint32_t step) { return Control(kMark, {step}); }
Commands& Commands::Mend(uint32_t id) { return Control(kMend, {id}); }

Commands& Commands::Kernel(const std::string& op, const std::vector<Arg>& args,
                           const std::vector<double>& attributes) {
  const size_t start = words.size();
  words.insert(words.end(), {0, CodeOf(op), owner,
                             static_cast<uint32_t>(args.size() | attributes.size() << 16)});
  for (const Arg& a : args) {
    words.push_back(a.id);
    if (a.id == 0) continue;
    words.push_back(static_cast<uint32_t>(a.dtype) | static_cast<uint32_t>(a.shape.size() << 8));
    Push64(words, a.offset);
    for (const int64_t d : a.shape) Push64(words, d);
    std::vector<int64_t> strides = a.strides;
    if (strides.empty()) {
      strides.assign(a.shape.size(), 1);
      for (int i = static_cast<int>(a.shape.size()) - 2; i >= 0; --i) {
        strides[i] = strides[i + 1] * a.shape[i + 1];
      }
    }
    for (const int64_t s : strides) Push64(words, s);
  }
  for (const double value : attributes) {
    int64_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    Push64(words, bits);
  }
  words[start] = static_cast<uint32_t>(words.size() - start);
  return *this;
}

Session::Session(std::shared_ptr<Device> d) : device(std::move(d)) {
  environment = std::make_unique<Environment>(device, [this] {
    std::lock_guard lock(mutex_);
    notified_ = true;
    arrived_.notify_all();
  });
  environment->CreateQueue(0);
}

// Closed first: the executor may still be inside the notification, which uses the other members.
Session::~Session() { environment.reset(); }

void Session::Submit(const Commands& commands, uint32_t queue) {
  environment->Submit(queue, commands.words);
}

void Session::Collect() {
  for (Completion& c : environment->TakeCompletions()) {
    const uint32_t token = c.token;
    done_[token] = std::move(c);
  }
}

bool Session::Done(uint32_t token) {
  Collect();
  return done_.count(token) > 0;
}

Completion Session::Await(uint32_t token) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      notified_ = false;
    }
    Collect();
    if (const auto found = done_.find(token); found != done_.end()) {
      Completion c = std::move(found->second);
      done_.erase(found);
      return c;
    }
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_until(lock, deadline, [&] { return notified_; })) {
      throw CheckFailed("no completion of token " + std::to_string(token) + " within 30 s");
    }
  }
}

void Session::Fence(uint32_t queue) {
  const uint32_t token = NewToken();
  Submit(Begin().Fence(token), queue);
  CHECK(Await(token).ok);
}

std::vector<float> Session::Floats(uint32_t id, size_t count, uint32_t queue) {
  std::vector<float> values(count);
  const uint32_t token = NewToken();
  environment->RegisterHost(token, values.data(), count * sizeof(float));
  Submit(Begin().Read(id, 0, static_cast<int64_t>(count * sizeof(float)), token), queue);
  const Completion c = Await(token);
  if (!c.ok) throw Error(c.code, c.message);
  return values;
}

std::vector<int> Toys::TakeLog() {
  std::lock_guard lock(mutex);
  return std::exchange(log, {});
}

void Toys::Reset() {
  std::lock_guard lock(mutex);
  log.clear();
  spinning = false;
  release = false;
  tiles = 0;
}

Toys& TheToys() {
  static auto* toys = new Toys;
  return *toys;
}

void AwaitSpinning() {
  for (int i = 0; i < 300'000 && !TheToys().spinning; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  CHECK(TheToys().spinning);
}

}  // namespace fuselm::test
