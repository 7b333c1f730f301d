#include "worker/ops/cpu_linear.h"

#include <algorithm>

#include "common/status.h"

namespace tailor {
namespace {

const PackedWeight& Packed(const Weight& weight) {
  return static_cast<const PackedWeight&>(*weight.storage);
}

// Copies the valid columns of a tile [rows][stride] to out, from column `first` on.
void Emit(const float* tile, int stride, int64_t first, MatrixView<float> out, Epilogue epilogue) {
  const int64_t cols = std::min<int64_t>(stride, out.cols - first);
  for (int64_t r = 0; r < out.rows; ++r) {
    float* target = out.data + r * out.stride + first;
    const float* source = tile + r * stride;
    if (epilogue == Epilogue::kStore) {
      std::copy_n(source, cols, target);
    } else {
      for (int64_t c = 0; c < cols; ++c) target[c] += source[c];
    }
  }
}

}  // namespace

CpuLinear::CpuLinear(const CpuKernels& kernels, ThreadPool* pool)
    : kernels_(kernels), pool_(pool), scratch_(pool->threads()) {}

int CpuLinear::Tile(MatrixView<const float> x, const PackedWeight& weight, int64_t unit,
                    Scratch& scratch, std::vector<float>* tile) const {
  const int per_unit = GroupsPerUnit(x);
  const int64_t first = unit * per_unit;
  const int count = static_cast<int>(std::min<int64_t>(per_unit, weight.groups() - first));
  WeightGroup groups[kGemvGroups];
  for (int g = 0; g < per_unit; ++g) {
    // A gemm panel is always whole: its second half repeats the first when there is no other.
    groups[g] = weight.group(std::min(first + g, weight.groups() - 1));
  }
  tile->resize(x.rows * per_unit * kLanes);
  if (x.rows <= kGemvRows) {
    kernels_.gemv(groups, count, x.data, x.stride, x.rows, tile->data());
    return count;
  }
  scratch.panel.resize(x.cols * kGemmGroups * kLanes);
  kernels_.unpack(groups, kGemmGroups, scratch.panel.data());
  kernels_.gemm(scratch.panel.data(), x.cols, x.data, x.stride, x.rows, tile->data());
  return kGemmGroups;
}

void CpuLinear::Run(MatrixView<const float> x, std::span<const LinearJob> jobs) {
  const int per_unit = GroupsPerUnit(x);
  int64_t units = 0;
  for (const LinearJob& job : jobs) {
    TS_DCHECK(job.weight->cols == x.cols && job.out.cols == job.weight->rows);
    units += (Packed(*job.weight).groups() + per_unit - 1) / per_unit;
  }
  const auto run = [&](int64_t unit, int worker) {
    for (const LinearJob& job : jobs) {
      const PackedWeight& weight = Packed(*job.weight);
      const int64_t job_units = (weight.groups() + per_unit - 1) / per_unit;
      if (unit >= job_units) {
        unit -= job_units;
        continue;
      }
      Scratch& scratch = scratch_[worker];
      const int count = Tile(x, weight, unit, scratch, &scratch.tile);
      Emit(scratch.tile.data(), count * kLanes, unit * per_unit * kLanes, job.out, job.epilogue);
      return;
    }
  };
  pool_->ForEach(units, run);
}

void CpuLinear::RunGated(MatrixView<const float> x, const Weight& gate, const Weight& up,
                         MatrixView<float> out) {
  const int per_unit = GroupsPerUnit(x);
  const int64_t units = (Packed(gate).groups() + per_unit - 1) / per_unit;
  pool_->ForEach(units, [&](int64_t unit, int worker) {
    Scratch& scratch = scratch_[worker];
    const int count = Tile(x, Packed(gate), unit, scratch, &scratch.gated);
    Tile(x, Packed(up), unit, scratch, &scratch.tile);
    kernels_.silu_mul(scratch.gated.data(), scratch.tile.data(), x.rows * count * kLanes);
    Emit(scratch.gated.data(), count * kLanes, unit * per_unit * kLanes, out, Epilogue::kStore);
  });
}

}  // namespace tailor
