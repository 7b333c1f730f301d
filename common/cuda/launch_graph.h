// A list of launches as one instantiated CUDA graph: enqueued by one call, its nodes' values
// changed in place.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "common/cuda/handles.h"
#include "common/cuda/launch_list.h"

namespace tailor {

class LaunchGraph {
 public:
  static absl::StatusOr<LaunchGraph> Build(const LaunchList& list);

  // Node i becomes list's launch i, whose kernel it has already; of the launches enqueued from now
  // on.
  absl::Status Update(const LaunchList& list, size_t i);
  absl::Status Enqueue(cudaStream_t stream);

 private:
  CudaGraph graph_;  // owns the nodes by which exec_ is changed
  CudaGraphExec exec_;
  std::vector<cudaGraphNode_t> nodes_;
};

}  // namespace tailor
