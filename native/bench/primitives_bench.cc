// Checks the primitives' large paths (results written past the cache, several tiles, squares)
// against plain loops at every level, or times cases.
//
//   primitives_bench check
//   primitives_bench bench [rows columns]   GB/s of every case at every level, beside a copy
//   primitives_bench serve                  reads "case,level,dtype,threads,rows,columns" a line,
//                                           answers seconds (median): to interleave with a peer
#include <functional>
#include <iostream>
#include <map>

#include "native/bench/runner.h"

using namespace fuselm;
using namespace fuselm::bench;

namespace {

constexpr Level kLevels[] = {Level::kGeneric, Level::kAvx2, Level::kAvx512};
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};

ThreadRunner one(1), two(2);

View Turned(View v) {
  std::swap(v.shape[0], v.shape[1]);
  std::swap(v.stride[0], v.stride[1]);
  return v;
}
View Repeated(View v, int axis, int64_t size) {
  v.shape[axis] = size, v.stride[axis] = 0;
  return v;
}
View Split(View v, int64_t heads) {  // [T, H D] as [H, T, D]
  const int64_t T = v.shape[0], width = v.shape[1];
  v.rank = 3;
  v.shape[0] = heads, v.shape[1] = T, v.shape[2] = width / heads;
  v.stride[0] = width / heads, v.stride[1] = width, v.stride[2] = 1;
  return v;
}

struct Case {
  const char* signature;
  std::vector<View> args;
  std::vector<double> attributes;
  double bytes;
};

// The arrays of one shape and dtype, and the cases on them.
struct Arrays {
  int64_t R, C;
  DType dtype;
  Array a, b, y, row, column, bits, wide, narrow, ids, tall, joined;

  Arrays(int64_t rows, int64_t columns, DType type)
      : R(rows),
        C(columns),
        dtype(type),
        a(type, {R, C}),
        b(type, {R, C}),
        y(type, {R, C}),
        row(type, {1, C}),
        column(type, {R, 1}),
        bits(DType::kU8, {R, C}),
        wide(DType::kF32, {R, C}),
        narrow(DType::kBF16, {R, C}),
        ids(DType::kI32, {R}),
        tall(type, {C, R}),
        joined(type, {R, 2 * C}) {
    Random random(7);
    random.Fill(row), random.Fill(column);
    for (Array* t : {&a, &b, &wide, &narrow})
      for (int64_t i = 0; i < R * C; ++i)
        t->Set(i, i < 65521 ? random.Normal() : t->Get(i - 65521));
    for (int64_t i = 0; i < R * C; ++i)
      bits.view.as<uint8_t>()[i] = static_cast<uint8_t>((i * 2654435761u) >> 31 & 1);
    for (int64_t i = 0; i < R; ++i) ids.Set(i, static_cast<double>(random.Next() % R));
  }

  std::map<std::string, Case> Cases() {
    const double item = static_cast<double>(ItemSize(dtype)), n = static_cast<double>(R * C);
    const char* const add = "add(a, b) -> (y)";
    const View over_rows = Repeated(row.view, 0, R), over_columns = Repeated(column.view, 1, C);
    View scalar = Repeated(Repeated(row.view, 0, R), 1, C);
    View heads = Split(y.view, 8), dense = heads;
    dense.stride[0] = R * (C / 8), dense.stride[1] = C / 8;
    std::map<std::string, Case> cases = {
        {"add", {add, {a.view, b.view, y.view}, {}, 3 * n * item}},
        {"add row", {add, {a.view, over_rows, y.view}, {}, 2 * n * item}},
        {"add column", {add, {a.view, over_columns, y.view}, {}, 2 * n * item}},
        {"mul scalar", {"mul(a, b) -> (y)", {a.view, scalar, y.view}, {}, 2 * n * item}},
        {"add transposed", {add, {Turned(a.view), tall.view, tall.view}, {}, 3 * n * item}},
        {"less", {"less(a, b) -> (y)", {a.view, b.view, bits.view}, {}, n * (2 * item + 1)}},
        {"where",
         {"where(cond, a, b) -> (y)", {bits.view, a.view, b.view, y.view}, {}, n * (3 * item + 1)}},
        {"maximum", {"maximum(a, b) -> (y)", {a.view, b.view, y.view}, {}, 3 * n * item}},
        {"copy", {"contiguous(x) -> (y)", {a.view, y.view}, {}, 2 * n * item}},
        {"transpose", {"contiguous(x) -> (y)", {Turned(a.view), tall.view}, {}, 2 * n * item}},
        {"heads", {"contiguous(x) -> (y)", {Split(a.view, 8), dense}, {}, 2 * n * item}},
        {"concat",
         {"concat(...(part)) -> (y) [axis]", {joined.view, a.view, b.view}, {1}, 4 * n * item}},
        {"to bf16", {"cast(x) -> (y) [dtype]", {wide.view, narrow.view}, {2}, 6 * n}},
        {"to f32", {"cast(x) -> (y) [dtype]", {narrow.view, wide.view}, {1}, 6 * n}},
        {"fill", {"fill(y!) [value]", {y.view}, {1}, n * item}},
        {"sum rows", {"sum(x) -> (y) [axes]", {a.view, column.view}, {2}, n * item}},
        {"sum columns", {"sum(x) -> (y) [axes]", {a.view, row.view}, {1}, n * item}},
        {"max rows", {"max(x) -> (y) [axes]", {a.view, column.view}, {2}, n * item}},
        {"max columns", {"max(x) -> (y) [axes]", {a.view, row.view}, {1}, n * item}},
        {"argmax", {"argmax(x) -> (y)", {a.view, ids_out()}, {}, n * item}},
        {"take", {"take(table, ids) -> (y)", {a.view, ids.view, y.view}, {}, 2 * n * item}},
        {"scatter_add",
         {"scatter_add(base, ids, rows) -> (y)",
          {a.view, ids.view, b.view, y.view},
          {},
          3 * n * item}},
        {"cumsum", {"cumsum(x) -> (y) [axis, reverse]", {a.view, y.view}, {1, 0}, 2 * n * item}},
    };
    for (const char* op :
         {"exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "sigmoid", "abs", "neg"}) {
      static std::map<std::string, std::string> names;
      const std::string& text = names[op] = std::string(op) + "(x) -> (y)";
      cases[op] = {
          text.c_str(), {op == std::string("log") ? b.view : a.view, y.view}, {}, 2 * n * item};
    }
    return cases;
  }
  View ids_out() {
    static std::map<int64_t, Array> outs;
    auto& out = outs[R];
    if (!out.block) out = Array(DType::kI32, {R});
    return out.view;
  }
};

const KernelInfo& Find(const Case& c, Level level, DType dtype) {
  for (Level l : {level, Level::kAvx2, Level::kGeneric})  // a kernel may stop at a lower level
    if (const KernelInfo* k = l <= level ? FindKernel(c.signature, l, dtype) : nullptr) return *k;
  std::printf("no kernel %s\n", c.signature);
  std::exit(1);
}

double Seconds(const Case& c, Level level, DType dtype, int threads) {
  const KernelInfo& kernel = Find(c, level, dtype);
  return MedianSeconds([&] { Call(kernel, c.args, c.attributes, threads == 1 ? one : two); }, 0.25);
}

double CopySeconds(Arrays& t, int threads) {
  const int64_t bytes = t.R * t.C * static_cast<int64_t>(ItemSize(t.dtype));
  return MedianSeconds(
      [&] {
        struct Halves {
          std::byte *to, *from;
          int64_t bytes, parts;
        } halves{t.y.block.get(), t.a.block.get(), bytes, threads};
        (threads == 1 ? one : two)
            .Run(
                threads,
                [](void* h, int64_t tile, int) {
                  const auto& p = *static_cast<Halves*>(h);
                  const int64_t part = p.bytes / p.parts;
                  std::memcpy(p.to + tile * part, p.from + tile * part, part);
                },
                &halves);
      },
      0.25);
}

void Bench(int64_t rows, int64_t columns) {
  for (const DType dtype : kDTypes) {
    Arrays arrays(rows, columns, dtype);
    const double n =
        2.0 * static_cast<double>(rows * columns) * static_cast<double>(ItemSize(dtype));
    const double copy = n / CopySeconds(arrays, 2) * 1e-9;
    std::printf("%s [%ld,%ld], GB/s by level (memcpy, 2 threads: %.1f)\n", DTypeName(dtype), rows,
                columns, copy);
    for (const auto& [name, c] : arrays.Cases()) {
      std::printf("  %-15s", name.c_str());
      for (const Level level : kLevels)
        if (MachineHas(level))
          std::printf(" %s %7.1f", LevelName(level), c.bytes / Seconds(c, level, dtype, 2) * 1e-9);
      std::printf("\n");
    }
  }
}

void Serve() {
  std::map<std::string, std::unique_ptr<Arrays>> known;
  std::string line;
  while (std::getline(std::cin, line)) {
    char name[64], level_name[16], dtype_name[16];
    int threads;
    long rows, columns;
    if (std::sscanf(line.c_str(), "%63[^,],%15[^,],%15[^,],%d,%ld,%ld", name, level_name,
                    dtype_name, &threads, &rows, &columns) != 6)
      std::exit(2);
    const DType dtype = dtype_name == std::string("bf16") ? DType::kBF16 : DType::kF32;
    Level level = Level::kGeneric;
    for (const Level l : kLevels)
      if (LevelName(l) == std::string(level_name)) level = l;
    auto& arrays =
        known[std::string(dtype_name) + std::to_string(rows) + "x" + std::to_string(columns)];
    if (!arrays) {
      known.erase(known.begin(), known.end());
      auto fresh = std::make_unique<Arrays>(rows, columns, dtype);
      known[std::string(dtype_name) + std::to_string(rows) + "x" + std::to_string(columns)] =
          std::move(fresh);
    }
    Arrays& t = *known.begin()->second;
    if (std::string(name) == "memcpy") {
      std::printf("%.9f\n", CopySeconds(t, threads));
    } else {
      const auto cases = t.Cases();
      std::printf("%.9f\n", Seconds(cases.at(name), level, dtype, threads));
    }
    std::fflush(stdout);
  }
}

double ValueOf(const View& v, int64_t i, int64_t j) {
  const int64_t at = i * v.stride[0] + j * v.stride[1];
  if (v.dtype == DType::kBF16) return v.as<bf16>()[at];
  if (v.dtype == DType::kU8) return v.as<uint8_t>()[at];
  return v.as<float>()[at];
}

// Elementwise cases on more elements than a cache holds, against doubles.
void Check() {
  const std::map<std::string, std::function<double(const std::vector<double>&)>> expected = {
      {"add", [](auto& v) { return v[0] + v[1]; }},
      {"add row", [](auto& v) { return v[0] + v[1]; }},
      {"add column", [](auto& v) { return v[0] + v[1]; }},
      {"mul scalar", [](auto& v) { return v[0] * v[1]; }},
      {"less", [](auto& v) { return v[0] < v[1] ? 1.0 : 0.0; }},
      {"maximum", [](auto& v) { return std::max(v[0], v[1]); }},
      {"where", [](auto& v) { return v[0] != 0 ? v[1] : v[2]; }},
      {"copy", [](auto& v) { return v[0]; }},
      {"transpose", [](auto& v) { return v[0]; }},
      {"to f32", [](auto& v) { return v[0]; }},
      {"to bf16", [](auto& v) { return static_cast<double>(bf16(v[0])); }},
      {"exp", [](auto& v) { return std::exp(v[0]); }},
      {"neg", [](auto& v) { return -v[0]; }},
      {"fill", [](auto&) { return 1.0; }},
  };
  for (const DType dtype : kDTypes) {
    // 33 MB and more of either dtype, in rows that are not aligned
    Arrays arrays(dtype == DType::kF32 ? 4099 : 8209, 2051, dtype);
    for (const Level level : kLevels) {
      if (!MachineHas(level)) continue;
      auto cases = arrays.Cases();
      for (const auto& [name, f] : expected) {
        const Case& c = cases.at(name);
        if (name == "where")  // `less` overwrote the bits with its own: any will do
          arrays.bits.view.as<uint8_t>()[0] = 1;
        const size_t count = c.args.size() - 1;
        const View& y = c.args[count];
        std::memset(y.data, 0x7f, y.numel() * ItemSize(y.dtype));
        Call(Find(c, level, dtype), c.args, c.attributes, two);
        double worst = 0;
        // every 31st row: tiles end within others
        for (int64_t i = 0; i < y.shape[0]; i += 31)
          for (int64_t j = 0; j < y.shape[1]; ++j) {
            std::vector<double> in;
            for (size_t v = 0; v < count; ++v) in.push_back(ValueOf(c.args[v], i, j));
            const double e = f(in), error = std::abs(ValueOf(y, i, j) - e);
            const double rtol = y.dtype == DType::kBF16 ? 4e-3 : 1.3e-6;
            const double ratio = error / (1e-6 + rtol * std::abs(e));
            if (!(ratio <= worst)) worst = ratio;
          }
        Expect(worst <= 1, std::string(LevelName(level)) + " " + DTypeName(dtype) + " " + name +
                               ": " + std::to_string(worst) + " tolerances");
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "serve") {
    Serve();
    return 0;
  }
  if (mode == "bench") {
    Bench(argc > 3 ? std::atol(argv[2]) : 16384, argc > 3 ? std::atol(argv[3]) : 2048);
    return 0;
  }
  Check();
  std::printf("%d checks, %d failed\n", Checks(), Failures());
  return Failures() ? 1 : 0;
}
