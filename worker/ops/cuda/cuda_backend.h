// The ops interface on one CUDA device. Weights stay in their files' formats; everything is
// enqueued on one stream, in order; a decode step as one graph.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/cpu/thread_pool.h"
#include "worker/ops/backend.h"
#include "worker/ops/cuda/cuda_attention.h"
#include "worker/ops/cuda/cuda_context.h"
#include "worker/ops/cuda/cuda_copies.h"
#include "worker/ops/cuda/cuda_doorbell.h"
#include "worker/ops/cuda/cuda_logits.h"
#include "worker/ops/cuda/cuda_select.h"
#include "worker/ops/cuda/many_rows.h"

namespace tailor::cuda {

class CudaBackend final : public Backend {
 public:
  // `blas_library`: ManyRows' file.
  CudaBackend(std::unique_ptr<CudaContext> context, CudaCopies copies, int host_threads,
              const std::string& blas_library);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  absl::Status CheckModel(const LlamaHyperparameters& model) const override;

  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, MemoryKind kind) override;
  int64_t allocated_bytes() const override { return context_->pool().asked_bytes() - own_bytes_; }
  MemoryUse TakeMemoryUse() override;
  int64_t MemoryBudget(const LlamaHyperparameters& model, int64_t rows,
                       int64_t tokens) const override;
  absl::StatusOr<Weight> LoadWeight(const TensorView& tensor) override;
  void Download(const void* device, std::span<std::byte> host) override;
  void Upload(std::span<const std::byte> host, void* device) override;
  absl::Status MapHostMemory(std::span<std::byte> host) override;
  void Synchronize() override;
  bool host_memory_is_far() const override { return true; }
  void Copy(std::span<const CopyPiece> pieces) override { copies_.Copy(pieces); }
  void CopyAside(std::span<const CopyPiece> pieces) override { copies_.CopyAside(pieces); }
  void AwaitAside() override { copies_.AwaitAside(); }
  const std::byte* Stage(std::span<const std::byte> rows) override;
  std::span<const float> ReadBack(std::span<const float> device, std::vector<float>* room) override;
  DeviceSelect* device_select() override { return &select_; }
  void RunOnHost(int64_t units, absl::FunctionRef<void(int64_t, int)> fn) override {
    host_.ForEach(units, fn);
  }
  int host_threads() const override { return host_.threads(); }
  DoorbellStream* doorbell() override { return &doorbell_; }
  void BeginStep(int rows) override;
  void EndStep() override;
  void BeginLane(int lane) override { context_->recorder().BeginLane(lane); }
  void EndLanes() override { context_->recorder().EndLanes(); }
  StepStats step_stats() const override { return context_->recorder().stats(); }

  void Embed(std::span<const TokenId> tokens, const Weight& embedding,
             MatrixView<float> x) override;
  void RmsNorm(MatrixView<const float> x, const Weight& gain, float eps,
               MatrixView<float> out) override;
  void MatMul(MatrixView<const float> x, const Weight& w, MatrixView<float> out) override;
  void MatMulAdd(MatrixView<const float> x, const Weight& w, MatrixView<float> out) override;
  void ProjectQkv(MatrixView<const float> x, const Weight& wq, const Weight& wk, const Weight& wv,
                  MatrixView<float> q, MatrixView<float> k, MatrixView<float> v) override;
  void SwiGlu(MatrixView<const float> x, const Weight& gate, const Weight& up,
              MatrixView<float> out) override;
  void AddBias(const Weight& bias, MatrixView<float> x) override;
  void Rope(std::span<const int32_t> positions, const RopeTable& table,
            MatrixView<float> x) override;
  void WriteRows(MatrixView<const float> k, MatrixView<const float> v,
                 std::span<BFloat16* const> rows, int32_t head_dim) override;
  void RopeAndWriteRows(std::span<const int32_t> positions, const RopeTable& table,
                        MatrixView<float> q, MatrixView<float> k, MatrixView<const float> v,
                        std::span<BFloat16* const> rows,
                        std::span<BFloat16* const> more_rows) override;
  void Attend(const RowAttention& attention) override;
  void QuantizePage(const BFloat16* rows, const QuantizedPageShape& shape,
                    std::byte* page) override;
  void AttendQuantized(const QuantizedAttention& attention) override;
  void ReduceLogits(MatrixView<const float> logits, std::span<const LogitQuery> queries,
                    std::span<LogitReduction> out) override {
    logits_.Reduce(logits, queries, out);
  }

 protected:
  void Free(std::byte* data, int64_t bytes) override;

 private:
  // x as the product kernels read it: aligned, zeros up to a whole number of 32 columns.
  Rows<const float> Padded(MatrixView<const float> x);
  void Linear(Rows<const float> x, std::span<const LinearJob> jobs, Epilogue epilogue);
  bool IsMapped(std::span<const std::byte> host) const;
  static void CheckLaunch(const char* op) { CheckCuda(cudaGetLastError(), op); }

  std::unique_ptr<CudaContext> context_;
  ManyRows many_rows_;
  const int64_t own_bytes_;  // of the pool, before anyone asked
  CudaAttention attention_;
  CudaSelect select_;
  CudaDoorbell doorbell_;
  CudaLogits logits_;
  CudaCopies copies_;
  ThreadPool host_;
  std::vector<std::span<std::byte>> mapped_;
};

}  // namespace tailor::cuda
