// Launches of kernels by their host function, and graphs of them, on the emulated device. A graph's
// nodes run in another topological order at each of three launches: branches one after the other,
// the last one first, and all of them by turns. So a dependency that is missing shows, and memory
// that branches share.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "tests/gpu/emulator/fake_stream.h"
#include "tests/gpu/emulator/simt.h"

#undef gridDim  // kernels' names there, a launch's fields here
#undef blockDim

namespace emulator {
namespace {

// A launch with its own copy of the arguments.
class Call {
 public:
  static bool Known(const void* kernel) { return FindKernel(kernel) != nullptr; }
  Call(const void* kernel, dim3 grid, dim3 threads, size_t shared_bytes, void** arguments)
      : kernel_(kernel), grid_(grid), threads_(threads), shared_bytes_(shared_bytes) {
    for (const size_t bytes : FindKernel(kernel)->parameter_bytes) {
      values_.emplace_back((bytes + sizeof(Unit) - 1) / sizeof(Unit));
      std::memcpy(values_.back().data(), arguments[values_.size() - 1], bytes);
    }
  }
  explicit Call(const cudaKernelNodeParams& p)
      : Call(p.func, p.gridDim, p.blockDim, p.sharedMemBytes, p.kernelParams) {}

  const void* kernel() const { return kernel_; }
  dim3 threads() const { return threads_; }
  void Run() const {
    std::vector<void*> pointers;
    for (const std::vector<Unit>& value : values_) {
      pointers.push_back(const_cast<Unit*>(value.data()));
    }
    Launch(grid_, threads_, shared_bytes_, nullptr,
           [&] { FindKernel(kernel_)->invoke(kernel_, pointers.data()); });
  }

 private:
  struct alignas(16) Unit {
    std::byte bytes[16];
  };
  const void* kernel_;
  dim3 grid_, threads_;
  size_t shared_bytes_;
  std::vector<std::vector<Unit>> values_;
};

struct Node {
  size_t index = 0;  // in its graph
};
struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;
  std::vector<Call> calls;                 // [nodes]
  std::vector<std::vector<size_t>> needs;  // [nodes]
};
struct Exec {
  std::shared_ptr<std::vector<Call>> calls;  // shared with launches that are enqueued
  std::vector<std::vector<size_t>> needs;
  int launches = 0;
};

enum class Order { kFirst, kLast, kByTurns };

void RunGraph(const std::vector<Call>& calls, const std::vector<std::vector<size_t>>& needs,
              Order order) {
  std::vector<size_t> missing(calls.size());
  std::vector<std::vector<size_t>> needed_by(calls.size());
  std::deque<size_t> ready;  // in the order of becoming so
  for (size_t i = 0; i < calls.size(); ++i) {
    missing[i] = needs[i].size();
    for (const size_t need : needs[i]) needed_by[need].push_back(i);
    if (missing[i] == 0) ready.push_back(i);
  }
  while (!ready.empty()) {
    const auto next = order == Order::kByTurns ? ready.begin()
                      : order == Order::kFirst ? std::min_element(ready.begin(), ready.end())
                                               : std::max_element(ready.begin(), ready.end());
    const size_t i = *next;
    ready.erase(next);
    calls[i].Run();
    for (const size_t after : needed_by[i]) {
      if (--missing[after] == 0) ready.push_back(after);
    }
  }
}

}  // namespace
}  // namespace emulator

using emulator::Call;
using emulator::Exec;
using emulator::Graph;
using emulator::Node;

extern "C" {

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 threads, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  if (!Call::Known(kernel)) return cudaErrorInvalidDeviceFunction;
  emulator::Enqueue(stream,
                    [call = Call(kernel, grid, threads, shared_bytes, arguments)] { call.Run(); });
  return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  return *graph = reinterpret_cast<cudaGraph_t>(new Graph), cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return delete reinterpret_cast<Graph*>(graph), cudaSuccess;
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* made, cudaGraph_t handle,
                                   const cudaGraphNode_t* needs, size_t count,
                                   const cudaKernelNodeParams* params) {
  if (!Call::Known(params->func)) return cudaErrorInvalidDeviceFunction;
  Graph& graph = *reinterpret_cast<Graph*>(handle);
  std::vector<size_t> indices;
  for (size_t i = 0; i < count; ++i) {
    indices.push_back(reinterpret_cast<const Node*>(needs[i])->index);
  }
  // The runtime refuses an edge that is there twice.
  if (std::set<size_t>(indices.begin(), indices.end()).size() != count) {
    return cudaErrorInvalidValue;
  }
  graph.nodes.push_back(std::make_unique<Node>(Node{graph.nodes.size()}));
  graph.calls.emplace_back(*params);
  graph.needs.push_back(std::move(indices));
  return *made = reinterpret_cast<cudaGraphNode_t>(graph.nodes.back().get()), cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t handle, unsigned long long) {
  // TAILOR_EMULATED_GRAPHS=no: a device with no memory for graphs.
  if (std::getenv("TAILOR_EMULATED_GRAPHS") != nullptr) return cudaErrorMemoryAllocation;
  const Graph& graph = *reinterpret_cast<Graph*>(handle);
  auto* const made = new Exec{std::make_shared<std::vector<Call>>(graph.calls), graph.needs};
  return *exec = reinterpret_cast<cudaGraphExec_t>(made), cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return delete reinterpret_cast<Exec*>(exec), cudaSuccess;
}
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t handle, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* params) {
  Exec& exec = *reinterpret_cast<Exec*>(handle);
  const size_t index = reinterpret_cast<const Node*>(node)->index;
  if (!Call::Known(params->func)) return cudaErrorInvalidDeviceFunction;
  // What is enqueued keeps its values.
  if (exec.calls.use_count() > 1) exec.calls = std::make_shared<std::vector<Call>>(*exec.calls);
  (*exec.calls)[index] = Call(*params);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream) {
  Exec& exec = *reinterpret_cast<Exec*>(handle);
  const auto order = static_cast<emulator::Order>(exec.launches++ % 3);
  emulator::Enqueue(stream, [calls = exec.calls, needs = exec.needs, order] {
    emulator::RunGraph(*calls, needs, order);
  });
  return cudaSuccess;
}

}  // extern "C"
