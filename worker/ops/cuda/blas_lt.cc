#include "worker/ops/cuda/blas_lt.h"

#include <algorithm>

#include "common/status.h"

namespace tailor::cuda {
namespace {

// Algorithms are chosen for this many rows, the engine's usual chunk, and kept for all others.
constexpr int32_t kPlannedRows = 512;
constexpr uint32_t kAlignment = 16;  // the widest access that gains from an output's address
constexpr int kCandidates = 16;

uint32_t AlignmentOf(const void* address) {
  const auto bits = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address) % kAlignment);
  return bits == 0 ? kAlignment : bits & (~bits + 1);
}

}  // namespace

BlasLt::BlasLt(CublasLtApi api, CublasLtHandle handle, CublasLtMatmulDesc desc,
               CublasLtPreference preference, std::span<std::byte> workspace,
               std::string description)
    : api_(api),
      handle_(std::move(handle)),
      desc_(std::move(desc)),
      preference_(std::move(preference)),
      workspace_(workspace),
      description_(std::move(description)) {}

absl::StatusOr<std::unique_ptr<BlasLt>> BlasLt::Open(std::span<const std::string> files,
                                                     std::span<std::byte> workspace) {
  std::string reasons;
  for (const std::string& file : files) {
    auto made = Make(file, workspace);
    if (made.ok()) return made;
    absl::StrAppend(&reasons, reasons.empty() ? "" : "; ", std::string(made.status().message()));
  }
  return absl::UnavailableError(reasons);
}

absl::StatusOr<std::unique_ptr<BlasLt>> BlasLt::Make(const std::string& file,
                                                     std::span<std::byte> workspace) {
  TS_ASSIGN_OR_RETURN(const CublasLtApi api, CublasLtApi::Load(file));
  TS_ASSIGN_OR_RETURN(CublasLtHandle handle, MakeHandle(api));
  TS_ASSIGN_OR_RETURN(CublasLtMatmulDesc desc, MakeMatmulDesc(api));
  TS_ASSIGN_OR_RETURN(CublasLtPreference preference, MakePreference(api));
  std::unique_ptr<BlasLt> blas(
      new BlasLt(api, std::move(handle), std::move(desc), std::move(preference), workspace,
                 absl::StrCat("cuBLASLt ", api.GetVersion(), " (", file, ")")));
  // Row-major is column-major transposed: out^T = w x^T, with w given as its transpose.
  TS_RETURN_IF_ERROR(blas->Describe(CUBLASLT_MATMUL_DESC_TRANSA, int32_t{CUBLAS_OP_T}));
  TS_RETURN_IF_ERROR(blas->Describe(CUBLASLT_MATMUL_DESC_TRANSB, int32_t{CUBLAS_OP_N}));
  TS_RETURN_IF_ERROR(
      blas->Prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace.size()}));
  TS_RETURN_IF_ERROR(blas->Prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                  uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE}));
  for (const auto side :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES}) {
    TS_RETURN_IF_ERROR(blas->Prefer(side, kAlignment));
  }
  return blas;
}

template <typename T>
absl::Status BlasLt::Describe(cublasLtMatmulDescAttributes_t attribute, T value) {
  return api_.ToStatus(api_.MatmulDescSetAttribute(desc_.get(), attribute, &value, sizeof(value)),
                       "cublasLtMatmulDescSetAttribute");
}

template <typename T>
absl::Status BlasLt::Prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  return api_.ToStatus(
      api_.MatmulPreferenceSetAttribute(preference_.get(), attribute, &value, sizeof(value)),
      "cublasLtMatmulPreferenceSetAttribute");
}

absl::Status BlasLt::Multiply(const Product& product, CudaStreamRef stream) {
  const auto& [x, w, out, epilogue] = product;
  const auto& plan = PlanFor({.rows = x.rows,
                              .outputs = w.rows,
                              .k = x.cols,
                              .x_stride = x.stride,
                              .w_stride = w.stride,
                              .out_stride = out.stride,
                              .out_alignment = AlignmentOf(out.data)});
  TS_RETURN_IF_ERROR(plan.status());
  const float alpha = 1.0f, beta = epilogue == Epilogue::kAdd ? 1.0f : 0.0f;
  const absl::Status multiplied = api_.ToStatus(
      api_.Matmul(handle_.get(), desc_.get(), &alpha, w.data, plan->w.get(), x.data, plan->x.get(),
                  &beta, out.data, plan->out.get(), out.data, plan->out.get(), &plan->algorithm,
                  workspace_.data(), workspace_.size(), stream.Direct()),
      "cublasLtMatmul");
  // Whatever it says of an algorithm that it offered itself, it is not to be asked again.
  return multiplied.ok() ? multiplied : absl::InternalError(multiplied.message());
}

const absl::StatusOr<BlasLt::Plan>& BlasLt::PlanFor(const Shape& shape) {
  if (const auto known = plans_.find(shape); known != plans_.end()) return known->second;
  auto plan = MakePlan(shape);
  return plans_.emplace(shape, std::move(plan)).first->second;
}

absl::StatusOr<BlasLt::Plan> BlasLt::MakePlan(const Shape& shape) {
  TS_ASSIGN_OR_RETURN(CublasLtLayout x,
                      MakeLayout(api_, CUDA_R_16BF, shape.k, shape.rows, shape.x_stride));
  TS_ASSIGN_OR_RETURN(CublasLtLayout w,
                      MakeLayout(api_, CUDA_R_16BF, shape.k, shape.outputs, shape.w_stride));
  TS_ASSIGN_OR_RETURN(CublasLtLayout out,
                      MakeLayout(api_, CUDA_R_32F, shape.outputs, shape.rows, shape.out_stride));
  Plan plan = {std::move(x), std::move(w), std::move(out), {}};
  if (shape.rows != kPlannedRows) {
    Shape planned = shape;
    planned.rows = kPlannedRows;
    const auto& of_all = PlanFor(planned);
    if (of_all.ok() && Fits(plan, of_all->algorithm)) {
      plan.algorithm = of_all->algorithm;
      return plan;
    }
  }
  TS_ASSIGN_OR_RETURN(plan.algorithm, Choose(shape, plan));
  return plan;
}

absl::StatusOr<cublasLtMatmulAlgo_t> BlasLt::Choose(const Shape& shape, const Plan& plan) {
  for (const auto side :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    TS_RETURN_IF_ERROR(Prefer(side, shape.out_alignment));
  }
  cublasLtMatmulHeuristicResult_t found[kCandidates] = {};
  int count = 0;
  TS_RETURN_IF_ERROR(
      api_.ToStatus(api_.MatmulAlgoGetHeuristic(handle_.get(), desc_.get(), plan.w.get(),
                                                plan.x.get(), plan.out.get(), plan.out.get(),
                                                preference_.get(), kCandidates, found, &count),
                    "cublasLtMatmulAlgoGetHeuristic"));
  for (int i = 0; i < std::min(count, kCandidates); ++i) {
    if (found[i].state == CUBLAS_STATUS_SUCCESS && AddsInOnePlace(found[i].algo)) {
      return found[i].algo;
    }
  }
  return absl::UnimplementedError(absl::StrCat("no algorithm for ", shape.rows, " rows of ",
                                               shape.k, " inputs and ", shape.outputs, " outputs"));
}

// The mask asked for as much; an algorithm says it again for itself.
bool BlasLt::AddsInOnePlace(const cublasLtMatmulAlgo_t& algorithm) const {
  const auto get = [&]<typename T>(cublasLtMatmulAlgoConfigAttributes_t attribute, T other) {
    size_t written = 0;
    T value = other;
    const cublasStatus_t status =
        api_.MatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value), &written);
    return status == CUBLAS_STATUS_SUCCESS ? value : other;
  };
  const auto splits = get(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, int32_t{2});
  const auto scheme =
      get(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, uint32_t{CUBLASLT_REDUCTION_SCHEME_MASK});
  return (splits == 0 || splits == 1) && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

bool BlasLt::Fits(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm) const {
  cublasLtMatmulHeuristicResult_t result = {};
  const cublasStatus_t status =
      api_.MatmulAlgoCheck(handle_.get(), desc_.get(), plan.w.get(), plan.x.get(), plan.out.get(),
                           plan.out.get(), &algorithm, &result);
  return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace_.size();
}

}  // namespace tailor::cuda
