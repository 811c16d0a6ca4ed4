#include "native/binding/file_lock.h"

#include <sys/file.h>

#include <cerrno>
#include <cstring>

namespace fuselm::binding {

Napi::Value TryLock(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsNumber()) {
    Napi::TypeError::New(env, "tryLock: expected a file descriptor").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const int fd = info[0].As<Napi::Number>().Int32Value();
  int result = 0;
  do {
    result = flock(fd, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return Napi::String::New(env, "locked");
  switch (errno) {
    case EWOULDBLOCK: return Napi::String::New(env, "held");
    case ENOLCK:
    case ENOSYS:
    case EOPNOTSUPP:
    case EINVAL: return Napi::String::New(env, "unsupported");
    default:
      Napi::Error::New(env, std::string("tryLock: ") + std::strerror(errno))
          .ThrowAsJavaScriptException();
      return env.Undefined();
  }
}

}  // namespace fuselm::binding
