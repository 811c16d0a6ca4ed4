// A process that ends while its device is busy: right status, quickly, no crash.
#include "native/test/child.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "native/test/harness.h"
#include "native/test/session.h"

namespace fuselm::test {
namespace {

// Ran after the device's handler, as a destructor of the C++ runtime would.
struct LateDestructor {
  ~LateDestructor() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }
};

[[noreturn]] void LeaveBusy(bool from_other_thread) {
  static LateDestructor late;
  static auto* session = new Session({.threads = 3});
  const uint32_t high = session->environment->CreateQueue(4);
  session->Submit(session->Begin().Kernel("toy.spin", {{}, {}}, {1'000'000, 200, 1}));
  AwaitSpinning();
  Commands flood = session->Begin();
  for (int i = 0; i < 1000; ++i) flood.Kernel("toy.spin", {{}, {}}, {10, 100, 2}).Fence(1);
  session->Submit(flood, high);
  if (from_other_thread) std::thread([] { std::exit(7); }).join();
  std::exit(7);
}

int RunSelf(const char* scene, double* seconds) {
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (length <= 0) return -1;
  self[length] = 0;
  char flag[] = "--child";
  std::string name = scene;
  // Built for another architecture, this program runs only through its emulator.
  char* emulator = std::getenv("FUSELM_TEST_EMULATOR");
  char* argv[] = {emulator, self, flag, name.data(), nullptr};
  char** const from = emulator ? argv : argv + 1;
  const auto start = std::chrono::steady_clock::now();
  pid_t child;
  int status = -1;
  if (posix_spawnp(&child, from[0], nullptr, nullptr, from, environ) != 0) return -1;
  waitpid(child, &status, 0);
  *seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return status;
}

}  // namespace

int RunChild(const char* scene) {
  if (std::strcmp(scene, "exit") == 0) LeaveBusy(false);
  if (std::strcmp(scene, "exit-thread") == 0) LeaveBusy(true);
  if (std::strcmp(scene, "return") == 0) {
    Session s({.threads = 2});
    s.Submit(s.Begin().Kernel("toy.spin", {{}, {}}, {1'000'000, 200, 1}));
    return 7;
  }
  return 2;
}

TEST(process_ends_while_busy) {
  for (const char* scene : {"exit", "exit-thread", "return"}) {
    for (int i = 0; i < 5; ++i) {
      double seconds = 0;
      const int status = RunSelf(scene, &seconds);
      CHECK(WIFEXITED(status));
      CHECK_EQ(WEXITSTATUS(status), 7);
      CHECK(seconds < 3);  // sanitizers start slowly
    }
  }
}

}  // namespace fuselm::test
