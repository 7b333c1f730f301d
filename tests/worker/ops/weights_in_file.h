// Random weights in the bytes of their file, for every dtype.
#pragma once

#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "common/bfloat16.h"
#include "common/model_file/dtype.h"
#include "tests/worker/ops/op_test.h"
#include "worker/ops/backend.h"
#include "worker/ops/reference.h"

namespace tailor {

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                                       DType::kQ4_0, DType::kQ4_1, DType::kQ4_K, DType::kQ6_K};

// The least multiple of the format's block that is no less than `cols`.
inline int64_t WholeBlocks(DType dtype, int64_t cols) {
  const int64_t block = BlockValues(dtype);
  return (cols + block - 1) / block * block;
}

// A finite fp16 of magnitude 2^-6 to 4, or zero.
inline uint16_t RandomHalf(std::mt19937_64& random) {
  if (random() % 16 == 0) return static_cast<uint16_t>(random() % 2 << 15);
  const auto exponent = static_cast<uint16_t>(9 + random() % 8);
  return static_cast<uint16_t>((random() % 2) << 15 | exponent << 10 | (random() % 1024));
}

struct FileWeight {
  DType dtype;
  int64_t rows, cols;
  std::vector<std::byte> bytes;

  TensorView view() const {
    return {.name = "w", .dtype = dtype, .rows = rows, .cols = cols, .bytes = bytes};
  }
  HostMatrix Values() const {
    HostMatrix values(rows, cols);
    values.values = DequantizeRef(view());
    return values;
  }
  Weight Load(Backend& ops) const {
    auto weight = ops.LoadWeight(view());
    TS_CHECK(weight.ok());
    return *std::move(weight);
  }
};

inline FileWeight RandomWeight(DType dtype, int64_t rows, int64_t cols, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 1);
  FileWeight weight = {dtype, rows, cols, {}};
  const int64_t blocks = rows * cols / BlockValues(dtype), size = BlockBytes(dtype);
  weight.bytes.resize(blocks * size);
  for (int64_t i = 0; i < blocks; ++i) {
    std::byte* block = weight.bytes.data() + i * size;
    if (dtype == DType::kF32) {
      const float value = normal(random);
      std::memcpy(block, &value, sizeof(value));
    } else if (dtype == DType::kBF16) {
      const BFloat16 value = ToBFloat16(normal(random));
      std::memcpy(block, &value, sizeof(value));
    } else {
      for (int64_t b = 0; b < size; ++b) block[b] = static_cast<std::byte>(random());
      const int headers = dtype == DType::kQ4_1 || dtype == DType::kQ4_K ? 2 : 1;
      std::byte* halves = dtype == DType::kQ6_K ? block + size - 2 : block;
      for (int h = 0; h < headers; ++h) {
        const uint16_t half = RandomHalf(random);
        std::memcpy(halves + 2 * h, &half, sizeof(half));
      }
    }
  }
  return weight;
}

}  // namespace tailor
