// Matrix products of the CPU backend: which kernel, which thread, which columns.
#pragma once

#include <span>
#include <vector>

#include "common/cpu/thread_pool.h"
#include "common/matrix_view.h"
#include "worker/ops/cpu_kernels.h"
#include "worker/ops/packed_weight.h"

namespace tailor {

// One product x W^T into `out`.
struct LinearJob {
  const Weight* weight;
  MatrixView<float> out;  // [x.rows][weight rows]
  Epilogue epilogue;
};

class CpuLinear {
 public:
  CpuLinear(const CpuKernels& kernels, ThreadPool* pool);
  // All jobs share x; one fork-join.
  void Run(MatrixView<const float> x, std::span<const LinearJob> jobs);
  // out = silu(x gate^T) * (x up^T)
  void RunGated(MatrixView<const float> x, const Weight& gate, const Weight& up,
                MatrixView<float> out);

 private:
  struct Scratch {
    std::vector<float> panel;         // [cols][32]
    std::vector<float> tile, gated;   // [rows][16 * groups]
  };
  // Columns [unit * groups * 16, ...) of one product into `tile`: [rows][16 * count]; returns count.
  int Tile(MatrixView<const float> x, const PackedWeight& weight, int64_t unit, Scratch& scratch,
           std::vector<float>* tile) const;
  int GroupsPerUnit(MatrixView<const float> x) const {
    return x.rows <= kGemvRows ? kGemvGroups : kGemmGroups;
  }

  const CpuKernels& kernels_;
  ThreadPool* pool_;
  std::vector<Scratch> scratch_;  // [threads]
};

}  // namespace tailor
