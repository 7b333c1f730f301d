// A weight matrix as a backend holds it: [rows = outputs][cols = inputs], in its file's format.
#pragma once

#include <cstdint>
#include <memory>

#include "common/model_file/model_file.h"

namespace tailor {

// Backend-private storage behind a weight (packed bytes on the CPU, device memory on a GPU).
class WeightStorage {
 public:
  virtual ~WeightStorage() = default;
  virtual int64_t bytes() const = 0;
};

struct Weight {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  std::shared_ptr<const WeightStorage> storage;
};

}  // namespace tailor
