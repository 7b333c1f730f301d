// The graphs of steps, kept by the number of rows and the step's structure: a step of the same
// kernels changes the values that differ and is launched by one call.
#pragma once

#include <cstddef>
#include <list>

#include "absl/status/status.h"
#include "common/cuda/launch_graph.h"
#include "common/cuda/launch_list.h"
#include "worker/ops/step.h"

namespace tailor::cuda {

class StepGraphs {
 public:
  // Sequences in other modes, contexts before and after their first sealed page: structures that
  // take turns. The one used longest ago gives way.
  static constexpr size_t kMostKept = 8;

  // Enqueues `list`, whose memory it may exchange for another's. Counts into *stats. On an error
  // nothing was enqueued.
  absl::Status Enqueue(int rows, LaunchList& list, cudaStream_t stream, StepStats* stats);

 private:
  struct Kept {
    int rows;
    LaunchList values;  // as the graph has them
    LaunchGraph graph;
  };
  // Moves it to the front; null: there is none.
  Kept* Find(int rows, const LaunchList& list);
  absl::Status Update(Kept& kept, const LaunchList& list, StepStats* stats);

  std::list<Kept> kept_;  // the last used first
};

}  // namespace tailor::cuda
