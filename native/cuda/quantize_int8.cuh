// Rows to int8, for weights once and for activations on their way into a product.
#pragma once

#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {

// Where the scale of a row's group stands: at row * row + group * group.
struct ScaleSteps {
  int64_t row, group;
};

// w [rows, columns] of float32 or bf16, rows `step` apart, to values with rows `out_step` apart and
// a scale per row (group 0) or per group of neighbours in it: largest magnitude / 127, 1 for zeros,
// NaN (and zeros) where a value is not finite.
void QuantizeRows(const Arguments& in, const char* what, DType dtype, const void* w, int64_t step,
                  int64_t rows, int64_t columns, int64_t group, int8_t* values, int64_t out_step,
                  float* scales, ScaleSteps steps);

}  // namespace fuselm::cuda
