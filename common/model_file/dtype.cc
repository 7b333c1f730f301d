#include "common/model_file/dtype.h"

#include <array>
#include <string>

#include "common/status.h"

namespace tailor {
namespace {

struct Format {
  std::string_view name;
  int64_t block_values;
  int64_t block_bytes;
};

// In the order of DType.
constexpr std::array<Format, 8> kFormats = {{{"F32", 1, 4},
                                             {"F16", 1, 2},
                                             {"BF16", 1, 2},
                                             {"Q8_0", 32, 2 + 32},
                                             {"Q4_0", 32, 2 + 16},
                                             {"Q4_1", 32, 2 + 2 + 16},
                                             {"Q4_K", 256, 2 + 2 + 12 + 128},
                                             {"Q6_K", 256, 128 + 64 + 16 + 2}}};

const Format& FormatOf(DType dtype) { return kFormats[static_cast<size_t>(dtype)]; }

}  // namespace

std::string_view DTypeName(DType dtype) { return FormatOf(dtype).name; }
int64_t BlockValues(DType dtype) { return FormatOf(dtype).block_values; }
int64_t BlockBytes(DType dtype) { return FormatOf(dtype).block_bytes; }

absl::StatusOr<int64_t> RowBytes(DType dtype, int64_t cols) {
  const Format& format = FormatOf(dtype);
  if (cols <= 0 || cols % format.block_values != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a row of ", cols, " values is not a positive multiple of ",
                     std::string(format.name), "'s block of ", format.block_values));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(cols / format.block_values, format.block_bytes, &bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("a row of ", cols, " values overflows 64 bits"));
  }
  return bytes;
}

absl::StatusOr<int64_t> TensorBytes(DType dtype, int64_t rows, int64_t cols) {
  TS_ASSIGN_OR_RETURN(const int64_t row_bytes, RowBytes(dtype, cols));
  int64_t bytes = 0;
  if (rows <= 0 || __builtin_mul_overflow(rows, row_bytes, &bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a shape of ", rows, " x ", cols, " is empty or overflows 64 bits"));
  }
  return bytes;
}

}  // namespace tailor
