#include "worker/ops/cuda/step_graphs.h"

#include <algorithm>
#include <utility>

#include "common/status.h"

namespace tailor::cuda {

StepGraphs::Kept* StepGraphs::Find(int rows, const LaunchList& list) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) {
    return kept.rows == rows && kept.values.SameStructure(list);
  });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return &kept_.front();
}

absl::Status StepGraphs::Update(Kept& kept, const LaunchList& list, StepStats* stats) {
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list.Differs(i, kept.values)) continue;
    TS_RETURN_IF_ERROR(kept.graph.Update(list, i));
    ++stats->nodes_updated;
  }
  return absl::OkStatus();
}

absl::Status StepGraphs::Enqueue(int rows, LaunchList& list, cudaStream_t stream,
                                 StepStats* stats) {
  if (Kept* const kept = Find(rows, list); kept != nullptr) {
    const absl::Status updated = Update(*kept, list, stats);
    if (!updated.ok()) {  // some nodes have new values, some old ones
      kept_.pop_front();
      return updated;
    }
  } else {
    TS_ASSIGN_OR_RETURN(LaunchGraph graph, LaunchGraph::Build(list));
    kept_.push_front({rows, {}, std::move(graph)});
    if (kept_.size() > kMostKept) kept_.pop_back();
    ++stats->graphs_built;
  }
  std::swap(kept_.front().values, list);
  const absl::Status enqueued = kept_.front().graph.Enqueue(stream);
  if (!enqueued.ok()) {
    std::swap(kept_.front().values, list);
    kept_.pop_front();
    return enqueued;
  }
  ++stats->graph_launches;
  return absl::OkStatus();
}

}  // namespace tailor::cuda
