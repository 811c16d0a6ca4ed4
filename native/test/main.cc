// usage: fuselm_native_test [part of a test's name]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "native/test/child.h"
#include "native/test/harness.h"

namespace fuselm::test {

std::vector<Case>& Cases() {
  static std::vector<Case> cases;
  return cases;
}

bool Register(const char* name, void (*body)()) {
  Cases().push_back({name, body});
  return true;
}

}  // namespace fuselm::test

int main(int argc, char** argv) {
  using namespace fuselm::test;
  if (argc == 3 && std::strcmp(argv[1], "--child") == 0) return RunChild(argv[2]);
  int passed = 0, failed = 0;
  for (const Case& c : Cases()) {
    if (argc > 1 && !std::strstr(c.name, argv[1])) continue;
    const auto start = std::chrono::steady_clock::now();
    std::string failure;
    try {
      c.body();
    } catch (const std::exception& e) {
      failure = e.what();
    }
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (failure.empty()) {
      ++passed;
      std::printf("ok    %s (%.0f ms)\n", c.name, ms);
    } else {
      ++failed;
      std::printf("FAIL  %s\n      %s\n", c.name, failure.c_str());
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
