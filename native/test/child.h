// Scenes that end a process, run in a process of their own (see exit_test.cc).
#pragma once

namespace fuselm::test {

int RunChild(const char* scene);

}  // namespace fuselm::test
