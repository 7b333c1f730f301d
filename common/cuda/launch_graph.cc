#include "common/cuda/launch_graph.h"

#include "common/status.h"

namespace tailor {
namespace {

dim3 Size(const LaunchSize& size) { return {size.x, size.y, size.z}; }

// `pointers` holds what the parameters point to.
cudaKernelNodeParams Params(const LaunchList& list, size_t i, std::vector<void*>* pointers) {
  pointers->clear();
  for (const std::span<const std::byte> argument : list.Arguments(i)) {
    pointers->push_back(const_cast<std::byte*>(argument.data()));  // CUDA copies them
  }
  const Launch& launch = list.launch(i);
  return {.func = const_cast<void*>(launch.kernel),
          .gridDim = Size(launch.grid),
          .blockDim = Size(launch.threads),
          .sharedMemBytes = launch.shared_bytes,
          .kernelParams = pointers->data(),
          .extra = nullptr};
}

}  // namespace

absl::StatusOr<LaunchGraph> LaunchGraph::Build(const LaunchList& list) {
  LaunchGraph made;
  TS_ASSIGN_OR_RETURN(made.graph_, MakeCudaGraph());
  std::vector<void*> pointers;
  std::vector<cudaGraphNode_t> needs;
  for (size_t i = 0; i < list.size(); ++i) {
    needs.clear();
    for (const uint32_t need : list.Needs(i)) needs.push_back(made.nodes_[need]);
    const cudaKernelNodeParams params = Params(list, i, &pointers);
    cudaGraphNode_t node = nullptr;
    TS_RETURN_IF_ERROR(CudaStatus(
        cudaGraphAddKernelNode(&node, made.graph_.get(), needs.data(), needs.size(), &params),
        "cudaGraphAddKernelNode"));
    made.nodes_.push_back(node);
  }
  TS_ASSIGN_OR_RETURN(made.exec_, InstantiateCudaGraph(made.graph_.get()));
  return made;
}

absl::Status LaunchGraph::Update(const LaunchList& list, size_t i) {
  std::vector<void*> pointers;
  const cudaKernelNodeParams params = Params(list, i, &pointers);
  return CudaStatus(cudaGraphExecKernelNodeSetParams(exec_.get(), nodes_[i], &params),
                    "cudaGraphExecKernelNodeSetParams");
}

absl::Status LaunchGraph::Enqueue(cudaStream_t stream) {
  return CudaStatus(cudaGraphLaunch(exec_.get(), stream), "cudaGraphLaunch");
}

}  // namespace tailor
