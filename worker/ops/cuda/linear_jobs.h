// The products of one launch side by side: which blocks make which outputs.
#pragma once

#include "worker/ops/cuda/host_device.h"
#include "worker/ops/cuda/kernels.h"

namespace tailor::cuda {

struct JobTable {
  LinearJob job[kMaxJobs];
  int32_t first_block[kMaxJobs + 1];

  TS_HD int32_t JobOf(int32_t block) const {
    int32_t j = 0;
    while (j + 1 < kMaxJobs && block >= first_block[j + 1]) ++j;
    return j;
  }
  int32_t blocks() const { return first_block[kMaxJobs]; }
};

// Rows [first_row, first_row + rows) of each job's outputs, `outs` outputs a block.
inline JobTable MakeJobTable(const LinearJob* jobs, int32_t count, int32_t outs, int32_t first_row,
                             int32_t rows) {
  JobTable table = {};
  int32_t blocks = 0;
  for (int32_t j = 0; j < kMaxJobs; ++j) {
    table.first_block[j] = blocks;
    if (j >= count) continue;
    const Rows<float>& out = jobs[j].out;
    table.job[j] = {jobs[j].w, {out.data + first_row * out.stride, out.stride, rows, out.cols}};
    blocks += (jobs[j].w.rows + outs - 1) / outs;
  }
  table.first_block[kMaxJobs] = blocks;
  return table;
}

}  // namespace tailor::cuda
