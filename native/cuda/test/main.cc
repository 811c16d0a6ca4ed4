// Proves the CUDA plugin on a GPU through its C interface: device query, copies both ways, the
// kernel, order across queues by fences, priorities, errors. Exits 0 when all hold, 1 when one does
// not, and 77 where there is no usable GPU, with the reason.
//
//   fuselm_cuda_test [plugin]

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "native/core/dtype.h"
#include "native/core/plugin_loader.h"

namespace {

using fuselm::bf16;
using fuselm::DType;

int passed = 0, failed = 0;
const FuselmDevicePlugin* cuda = nullptr;
// The kernel tried here takes none.
const FuselmWorkspace kNoWorkspace{nullptr, [](void*, int64_t) -> void* { return nullptr; }};

void Expect(bool ok, const std::string& what) {
  if (ok) {
    ++passed;
  } else {
    ++failed;
    std::printf("FAIL %s\n", what.c_str());
  }
}

// For calls that must succeed for the rest to mean anything.
bool Ok(int code, const char* what) {
  if (code == 0) return true;
  ++failed;
  std::printf("FAIL %s: code %d: %s\n", what, code, cuda->last_error());
  return false;
}

struct Queue {
  FuselmPluginQueue* queue = nullptr;
  FuselmPluginFence* fence = nullptr;
  explicit Queue(int priority) {
    Ok(cuda->queue_create(0, priority, &queue), "queue_create");
    Ok(cuda->fence_create(0, &fence), "fence_create");
  }
  ~Queue() {
    if (queue != nullptr) Ok(cuda->queue_destroy(queue), "queue_destroy");
    if (fence != nullptr) Ok(cuda->fence_destroy(fence), "fence_destroy");
  }
  void Sync() { Ok(cuda->fence_record(fence, queue) || cuda->fence_wait(fence), "fence"); }
};

struct Buffer {
  void* data = nullptr;
  explicit Buffer(int64_t bytes) { Ok(cuda->alloc(0, bytes, &data), "alloc"); }
  ~Buffer() { Ok(cuda->free(0, data), "free"); }
};

template <class T>
FuselmTensor Tensor(void* data, std::vector<int64_t> shape, std::vector<int64_t> stride = {}) {
  FuselmTensor t{};
  t.data = data;
  t.dtype = static_cast<int32_t>(std::is_same_v<T, float> ? DType::kF32 : DType::kBF16);
  t.rank = static_cast<int32_t>(shape.size());
  int64_t dense = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    t.shape[i] = shape[static_cast<size_t>(i)];
    t.stride[i] = stride.empty() ? dense : stride[static_cast<size_t>(i)];
    dense *= t.shape[i];
  }
  return t;
}

int KernelIndex(const std::string& signature) {
  for (int32_t i = 0; i < cuda->kernel_count; ++i) {
    if (signature == cuda->kernels[i].signature) return i;
  }
  return -1;
}

template <class T>
std::vector<T> Random(size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(n);
  for (T& v : values) v = T(normal(generator));
  return values;
}

// Both sides round once from the same float sum: equality is exact.
template <class T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

void TestCopies() {
  // Around the staging chunk of 4 MB, and several chunks.
  for (const int64_t bytes : {int64_t{1}, int64_t{4096}, int64_t{4} << 20, (int64_t{4} << 20) + 3,
                              (int64_t{33} << 20) + 1}) {
    Queue q(0);
    Buffer device(bytes);
    std::vector<uint8_t> from(static_cast<size_t>(bytes)), to(from.size(), 0xee);
    std::mt19937 generator(static_cast<unsigned>(bytes));
    for (uint8_t& b : from) b = static_cast<uint8_t>(generator());
    const std::vector<uint8_t> kept = from;
    Ok(cuda->copy_to_device(q.queue, device.data, from.data(), bytes), "copy_to_device");
    std::fill(from.begin(), from.end(), uint8_t{0});  // the caller may reuse it at once
    Ok(cuda->copy_to_host(q.queue, to.data(), device.data, bytes), "copy_to_host");
    q.Sync();
    Expect(to == kept, "copy of " + std::to_string(bytes) + " bytes comes back equal");
  }
}

template <class T>
void TestAdd(const char* dtype) {
  const int kernel = KernelIndex("add(a, b) -> (y)");
  Expect(kernel >= 0, "add is registered");
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{15}, int64_t{17},
                          int64_t{127}, int64_t{1} << 20, (int64_t{1} << 20) + 5}) {
    Queue q(0);
    const auto count = static_cast<size_t>(n);
    const std::vector<T> a = Random<T>(count, 1), b = Random<T>(count, 2);
    std::vector<T> expected(count), y(count);
    for (size_t i = 0; i < count; ++i) expected[i] = T(float(a[i]) + float(b[i]));
    const int64_t bytes = n * int64_t{sizeof(T)};
    Buffer da(bytes + 16), db(bytes + 16), dy(bytes + 16);
    const std::vector<uint8_t> poison(static_cast<size_t>(bytes) + 16, 0xff);
    Ok(cuda->copy_to_device(q.queue, dy.data, poison.data(), bytes + 16), "poison");
    Ok(cuda->copy_to_device(q.queue, da.data, a.data(), bytes), "copy");
    Ok(cuda->copy_to_device(q.queue, db.data, b.data(), bytes), "copy");
    const FuselmTensor args[] = {Tensor<T>(da.data, {n}), Tensor<T>(db.data, {n}),
                                 Tensor<T>(dy.data, {n})};
    Ok(cuda->launch(q.queue, kernel, args, 3, nullptr, 0, &kNoWorkspace), "launch");
    std::vector<uint8_t> after(16);
    Ok(cuda->copy_to_host(q.queue, y.data(), dy.data, bytes), "copy");
    Ok(cuda->copy_to_host(q.queue, after.data(), static_cast<std::byte*>(dy.data) + bytes, 16),
       "copy");
    q.Sync();
    const std::string name = std::string("add ") + dtype + " [" + std::to_string(n) + "]";
    Expect(SameBits(y, expected), name + " equals the CPU's sum");
    Expect(after == std::vector<uint8_t>(16, 0xff), name + " writes nothing past its end");
  }
  // A transposed view, and a row repeated by a stride of 0.
  const int64_t rows = 33, columns = 65;
  Queue q(0);
  const std::vector<T> a = Random<T>(rows * columns, 3), b = Random<T>(columns, 4);
  std::vector<T> expected(a.size()), y(a.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      expected[static_cast<size_t>(r * columns + c)] =
          T(float(a[static_cast<size_t>(c * rows + r)]) + float(b[static_cast<size_t>(c)]));
    }
  }
  const int64_t bytes = rows * columns * int64_t{sizeof(T)};
  Buffer da(bytes), db(columns * int64_t{sizeof(T)}), dy(bytes);
  Ok(cuda->copy_to_device(q.queue, da.data, a.data(), bytes), "copy");
  Ok(cuda->copy_to_device(q.queue, db.data, b.data(), columns * int64_t{sizeof(T)}), "copy");
  const FuselmTensor args[] = {Tensor<T>(da.data, {rows, columns}, {1, rows}),
                               Tensor<T>(db.data, {rows, columns}, {0, 1}),
                               Tensor<T>(dy.data, {rows, columns})};
  Ok(cuda->launch(q.queue, kernel, args, 3, nullptr, 0, &kNoWorkspace), "launch");
  Ok(cuda->copy_to_host(q.queue, y.data(), dy.data, bytes), "copy");
  q.Sync();
  Expect(SameBits(y, expected), std::string("add ") + dtype + " on strided views");
}

// A queue that waits for another's fence sees what that queue wrote, 50 times over.
void TestFences() {
  const int64_t n = 1 << 22, bytes = n * 4;
  const int kernel = KernelIndex("add(a, b) -> (y)");
  Queue producer(0), consumer(1);
  Buffer x(bytes), y(bytes);
  const std::vector<float> ones(static_cast<size_t>(n), 1.0f);
  Ok(cuda->copy_to_device(producer.queue, x.data, ones.data(), bytes), "copy");
  int wrong = 0;
  for (int round = 0; round < 50; ++round) {
    // producer: x += x; consumer: y = x + x, then producer waits before it writes x again.
    const FuselmTensor tx = Tensor<float>(x.data, {n}), ty = Tensor<float>(y.data, {n});
    const FuselmTensor twice[] = {tx, tx, tx};
    const FuselmTensor onward[] = {tx, tx, ty};
    float got[2] = {};
    Ok(cuda->launch(producer.queue, kernel, twice, 3, nullptr, 0, &kNoWorkspace), "launch");
    Ok(cuda->fence_record(producer.fence, producer.queue), "fence_record");
    Ok(cuda->queue_wait(consumer.queue, producer.fence), "queue_wait");
    Ok(cuda->launch(consumer.queue, kernel, onward, 3, nullptr, 0, &kNoWorkspace), "launch");
    Ok(cuda->copy_to_host(consumer.queue, &got[0], y.data, 4), "copy");
    Ok(cuda->copy_to_host(consumer.queue, &got[1], static_cast<float*>(y.data) + n - 1, 4), "copy");
    Ok(cuda->fence_record(consumer.fence, consumer.queue), "fence_record");
    Ok(cuda->queue_wait(producer.queue, consumer.fence), "queue_wait");
    Ok(cuda->fence_wait(consumer.fence), "fence_wait");
    const float expected = std::ldexp(1.0f, round + 2);
    wrong += got[0] != expected || got[1] != expected;
  }
  Expect(wrong == 0, "a waiting queue sees the other's writes in all of 50 rounds");
  int32_t done = 0;
  Ok(cuda->fence_done(consumer.fence, &done), "fence_done");
  Expect(done == 1, "a fence that was waited for is done");
}

void TestErrors() {
  void* memory = nullptr;
  const int code = cuda->alloc(0, int64_t{1} << 50, &memory);
  Expect(code == static_cast<int>(fuselm::ErrorCode::kOutOfMemory),
         "an allocation past the memory is kOutOfMemory");
  Expect(std::strlen(cuda->last_error()) > 0, "and says so");
  Expect(cuda->alloc(99, 16, &memory) != 0, "a device that does not exist is refused");
  Queue q(0);
  Buffer x(64);
  const FuselmTensor four = Tensor<float>(x.data, {4}), three = Tensor<float>(x.data, {3});
  const FuselmTensor args[] = {four, three, four};
  const int kernel = KernelIndex("add(a, b) -> (y)");
  Expect(cuda->launch(q.queue, kernel, args, 3, nullptr, 0, &kNoWorkspace) ==
             static_cast<int>(fuselm::ErrorCode::kShape),
         "shapes that do not fit are kShape");
  Expect(cuda->launch(q.queue, 999, args, 3, nullptr, 0, &kNoWorkspace) != 0,
         "an unknown kernel is refused");
  q.Sync();
  Expect(true, "the queue works after refused commands");
}

}  // namespace

int main(int argc, char** argv) {
  const fuselm::PluginStatus status = fuselm::LoadCudaPlugin(argc > 1 ? argv[1] : "");
  std::printf("plugin: %s\n", status.path.c_str());
  if (status.plugin == nullptr) {
    std::printf("FAIL the plugin does not load: %s\n0 passed, 1 failed\n", status.reason.c_str());
    return 1;
  }
  cuda = status.plugin;
  std::printf("built with: %s; kernels: %" PRId32 "\n", cuda->build, cuda->kernel_count);
  if (!status.usable()) {
    std::printf("no usable GPU: %s\n", status.reason.c_str());
    return 77;
  }
  for (const FuselmDeviceInfo& info : status.devices) {
    std::printf("device: %s, compute %d.%d, %d multiprocessors, %.1f GiB\n", info.name,
                info.compute_major, info.compute_minor, info.multiprocessors,
                static_cast<double>(info.memory_bytes) / (1 << 30));
  }
  TestCopies();
  TestAdd<float>("f32");
  TestAdd<bf16>("bf16");
  TestFences();
  TestErrors();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
