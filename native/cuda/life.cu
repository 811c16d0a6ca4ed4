#include "native/cuda/life.cuh"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace fuselm::cuda {
namespace {

// A call waits for the device at most; what is enqueued there is a few steps of training.
constexpr std::chrono::seconds kExitLimit{2};

std::atomic<int> calls{0};
std::atomic<bool> ending{false};
std::atomic<const std::string*> lost{nullptr};  // leaked, as is all that lives until exit

void EndCalls() {
  ending = true;
  const auto limit = std::chrono::steady_clock::now() + kExitLimit;
  while (calls > 0 && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

Call::Call() {
  ++calls;
  if (ending) {
    refused = "cuda: the process is exiting";
  } else if (const std::string* message = lost) {
    refused = message->c_str();
  }
}

Call::~Call() { --calls; }

void EndCallsBeforeUnloading() { std::atexit(EndCalls); }

void NoteLost(const std::string& message) {
  const std::string* nobody = nullptr;
  const auto* text =
      new std::string("the device was lost, and only a new process can use it (" + message + ")");
  if (!lost.compare_exchange_strong(nobody, text)) delete text;
}

std::string LostBecause() {
  const std::string* message = lost;
  return message == nullptr ? std::string() : *message;
}

}  // namespace fuselm::cuda
