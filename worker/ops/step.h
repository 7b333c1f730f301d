// What a backend made of decode steps (Backend::BeginStep).
#pragma once

#include <cstdint>

namespace tailor {

// Of all steps so far.
struct StepStats {
  int64_t steps = 0;           // begun
  int64_t graph_launches = 0;  // steps that were one launch of a graph
  int64_t flushed = 0;         // steps that something made go to the stream op by op
  int64_t launches = 0;  // kernels of the steps, in graphs or not, up to where one was flushed
  int64_t graphs_built = 0;
  int64_t nodes_updated = 0;  // values of graphs changed in place
};

}  // namespace tailor
