// A non-owning row-major matrix. On a device backend `data` is device memory: only ops may follow it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/status.h"

namespace tailor {

template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements between the starts of two rows, >= cols

  MatrixView() = default;
  MatrixView(T* data_in, int64_t rows_in, int64_t cols_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(cols_in) {}
  MatrixView(T* data_in, int64_t rows_in, int64_t cols_in, int64_t stride_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(stride_in) {}
  // A view of mutable elements is also one of const elements.
  operator MatrixView<const T>() const { return {data, rows, cols, stride}; }

  std::span<T> row(int64_t r) const {
    TS_DCHECK(r >= 0 && r < rows);
    return {data + r * stride, static_cast<size_t>(cols)};
  }
  MatrixView Rows(int64_t first, int64_t count) const {
    TS_DCHECK(first >= 0 && count >= 0 && first + count <= rows);
    return {data + first * stride, count, cols, stride};
  }
  T& operator()(int64_t r, int64_t c) const {
    TS_DCHECK(r >= 0 && r < rows && c >= 0 && c < cols);
    return data[r * stride + c];
  }
};

}  // namespace tailor
