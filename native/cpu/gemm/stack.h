// Matrices one below the other as one B: their rows are its columns.
#pragma once

#include "native/cpu/gemm/operand.h"
#include "native/cpu/gemm/pack.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct RowStack {
  static constexpr int kMost = 3;
  RowMatrix matrix[kMost];
  int64_t end[kMost];
  int count = 0;

  int64_t rows() const { return count > 0 ? end[count - 1] : 0; }
  void Add(const RowMatrix& m) {
    end[count] = rows() + m.rows;
    matrix[count++] = m;
  }
  // As B of a product in `dtype` whose K runs along the columns; the stack must outlive it.
  GemmOperand AlongColumns(DType dtype) const {
    GemmOperand operand{.data = this};
    DispatchFloat(dtype, [&]<class T>() { operand.pack = Pack<T>; });
    return operand;
  }

 private:
  template <class T>
  static void Pack(const void* context, const GemmPanel& panel) {
    const RowStack& s = *static_cast<const RowStack*>(context);
    PackAlongK<T>(panel, [&](int64_t column, int64_t k, int64_t left) {
      int i = 0;
      while (column >= s.end[i]) ++i;
      const RowMatrix& m = s.matrix[i];
      const int64_t row = column - (i > 0 ? s.end[i - 1] : 0);
      return RowWords(static_cast<const T*>(m.data) + row * m.stride + k, left);
    });
  }
};

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
