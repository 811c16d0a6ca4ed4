#pragma once

#include <napi.h>

namespace fuselm::binding {

// tryLock(fd): "locked", "held" by another open of the file, or "unsupported" by its file system.
// The lock belongs to the open file: the kernel drops it when the descriptor closes, so also when
// the process is killed. Node itself has no such call.
Napi::Value TryLock(const Napi::CallbackInfo& info);

}  // namespace fuselm::binding
