// How a weight lies in device memory: its file's values, unchanged, in pieces of 16 bytes that one
// thread loads at once. Block formats are parted into codes and scales, so that both are aligned.
//
//   dtype     a piece of 16 bytes holds   codes                      scales
//   F32       4 values of one row         [rows][pieces][16 bytes]   none
//   F16 BF16  8 values
//   Q8_0      16 codes, int8                                         [rows][cols / 32] fp16 d
//   Q4_0      32 codes, as in the file                               [rows][cols / 32] fp16 d
//   Q4_1      32 codes, as in the file                               [rows][cols / 32][2] d, m
//   Q4_K      32 codes, as Q4_0's                                    [rows][cols / 256] record
//   Q6_K      low halves of 32, as Q4_0's                            [rows][cols / 256] record
//
// The file's order in a K block is another: its steps of 32 share bytes. What a thread needs of a
// block beside its piece is one record: Q4_K's 16 bytes are the file's (d, dmin, scales), Q6_K's 82
// the upper two bits of the codes, 8 bytes a step, code i's at bit 2 * (i % 8) of the step's 16-bit
// word i / 8, then the file's 16 scales, then its d.
// A plain row that does not fill its last piece ends in zeros.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_file/model_file.h"
#include "worker/ops/cuda/host_device.h"

namespace tailor::cuda {

inline constexpr int64_t kPieceBytes = 16;

struct WeightLayout {
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  int32_t piece_values = 0;  // of one piece
  int64_t pieces = 0;        // of one row
  int64_t scale_bytes = 0;   // of one block; 0: none
  int64_t scale_values = 0;  // of one block

  static WeightLayout Of(DType dtype, int64_t rows, int64_t cols);
  int64_t CodeBytes() const { return rows * pieces * kPieceBytes; }
  int64_t ScalesOffset() const { return CodeBytes(); }
  int64_t ScaleRowBytes() const { return scale_bytes > 0 ? cols / scale_values * scale_bytes : 0; }
  int64_t Bytes() const { return CodeBytes() + rows * ScaleRowBytes(); }
};

// The tensor's bytes in that order. Errors: InvalidArgument when they do not fit the shape.
absl::StatusOr<std::vector<std::byte>> PackForDevice(const TensorView& tensor);

}  // namespace tailor::cuda
