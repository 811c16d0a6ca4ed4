#include "native/binding/session.h"

#include <cstdlib>
#include <set>
#include <utility>

namespace fuselm::binding {
namespace {

struct Live {
  std::mutex mutex;
  std::set<std::shared_ptr<Session>> sessions;
};

// Leaked: process.exit and an uncaught exception run atexit handlers, in no order that would suit
// a destructor, and no environment hook.
Live& AllLive() {
  static auto* live = new Live;
  return *live;
}

void AbandonAll() {
  std::set<std::shared_ptr<Session>> sessions;
  {
    std::lock_guard lock(AllLive().mutex);
    sessions.swap(AllLive().sessions);
  }
  for (const auto& session : sessions) session->Abandon();
}

void AddLive(std::shared_ptr<Session> session) {
  static const int registered = std::atexit(AbandonAll);
  static_cast<void>(registered);
  std::lock_guard lock(AllLive().mutex);
  AllLive().sessions.insert(std::move(session));
}

void Check(napi_status status, const char* what) {
  if (status != napi_ok) throw Error(ErrorCode::kDevice, std::string(what) + " failed");
}

}  // namespace

std::shared_ptr<Session> Session::Open(napi_env env, const DeviceOptions& options, Deliver deliver,
                                       void* owner) {
  auto session = std::make_shared<Session>();
  session->deliver_ = deliver;
  session->owner_ = owner;
  session->device_ = Device::Open(options);

  // The function's context owns a share: a call may be in its queue when we are closed.
  auto* context = new std::shared_ptr<Session>(session);
  napi_value name;
  Check(napi_create_string_utf8(env, "fuselm", NAPI_AUTO_LENGTH, &name), "creating a name");
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, name, 0, 1, context,
      [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<Session>*>(hint); },
      context,
      [](napi_env env, napi_value, void* hint, void*) {
        // Node drains calls it never made with a null env, after it has deleted the context.
        if (env == nullptr) return;
        const auto session = *static_cast<std::shared_ptr<Session>*>(hint);
        if (session->owner_ != nullptr) session->deliver_(env, session->owner_);
      },
      &session->function_);
  if (status != napi_ok) delete context;
  Check(status, "creating a thread-safe function");
  session->Unref(env);
  session->environment_ =
      std::make_unique<Environment>(session->device_, [raw = session.get()] { raw->Notify(); });
  AddLive(session);
  return session;
}

void Session::Ref(napi_env env) {
  if (function_ != nullptr) napi_ref_threadsafe_function(env, function_);
}

void Session::Unref(napi_env env) {
  if (function_ != nullptr) napi_unref_threadsafe_function(env, function_);
}

void Session::Notify() {
  std::lock_guard lock(mutex_);
  if (function_ != nullptr) {
    napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
  }
}

napi_threadsafe_function Session::Detach() {
  std::lock_guard lock(mutex_);
  return std::exchange(function_, nullptr);
}

void Session::Close() {
  owner_ = nullptr;
  napi_threadsafe_function function = Detach();
  environment_.reset();
  device_.reset();  // the last share joins the pool's threads
  if (function != nullptr) napi_release_threadsafe_function(function, napi_tsfn_abort);
  std::lock_guard lock(AllLive().mutex);
  for (auto it = AllLive().sessions.begin(); it != AllLive().sessions.end(); ++it) {
    if (it->get() == this) {
      AllLive().sessions.erase(it);
      break;
    }
  }
}

void Session::Abandon() {
  Detach();
  environment_.reset();
  device_.reset();
}

}  // namespace fuselm::binding
