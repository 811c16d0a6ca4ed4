// Enough of a test framework: TEST registers, CHECK records, main prints the count.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fuselm::test {

struct Case {
  const char* name;
  void (*body)();
};
std::vector<Case>& Cases();
bool Register(const char* name, void (*body)());

struct CheckFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void Fail(const char* file, int line, const std::string& what) {
  throw CheckFailed(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

template <class A, class B>
void Equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (a == b) return;
  std::ostringstream s;
  s << text << ": " << a << " and " << b;
  Fail(file, line, s.str());
}

}  // namespace fuselm::test

#define TEST(name)                                                                                \
  static void Test_##name();                                                                      \
  [[maybe_unused]] static const bool kTest_##name = ::fuselm::test::Register(#name, Test_##name); \
  static void Test_##name()
#define CHECK(ok)                                             \
  do {                                                        \
    if (!(ok)) ::fuselm::test::Fail(__FILE__, __LINE__, #ok); \
  } while (0)
#define CHECK_EQ(a, b) ::fuselm::test::Equal((a), (b), #a " == " #b, __FILE__, __LINE__)
// The statement throws Error with this code, and its message has `part`.
#define CHECK_THROWS(statement, wanted, part)                                           \
  do {                                                                                  \
    bool thrown = false;                                                                \
    try {                                                                               \
      statement;                                                                        \
    } catch (const ::fuselm::Error& e) {                                                \
      thrown = true;                                                                    \
      CHECK(e.code() == (wanted));                                                      \
      if (std::string(e.what()).find(part) == std::string::npos)                        \
        ::fuselm::test::Fail(__FILE__, __LINE__, std::string("message: ") + e.what());  \
    }                                                                                   \
    if (!thrown) ::fuselm::test::Fail(__FILE__, __LINE__, #statement " did not throw"); \
  } while (0)
