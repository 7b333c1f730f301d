// The CPU backend: kernels of one SIMD level over one thread pool.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "common/cpu/simd_level.h"
#include "common/cpu/thread_pool.h"
#include "common/status.h"
#include "worker/ops/backend.h"
#include "worker/ops/cpu_attention.h"
#include "worker/ops/cpu_linear.h"
#include "worker/ops/cpu_logits.h"
#include "worker/ops/doorbell.h"
#include "worker/ops/quantize_page.h"

namespace tailor {
namespace {

constexpr size_t kAlignment = 64;

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuBackendOptions& options, SimdLevel level)
      : limit_bytes_(options.memory_limit_bytes),
        rings_doorbell_(options.doorbell),
        host_memory_is_far_(options.far_host_memory),
        kernels_(KernelsFor(level)),
        pool_(options.threads),
        linear_(kernels_, &pool_),
        attention_(kernels_, &pool_),
        logits_(kernels_, &pool_) {}

  std::string_view name() const override { return "cpu"; }

  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, MemoryKind) override {
    TS_CHECK(bytes >= 0);
    if (limit_bytes_ > 0 && bytes > limit_bytes_ - allocated_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("device memory: ", bytes, " bytes asked, ", limit_bytes_ - allocated_bytes_,
                       " free of ", limit_bytes_));
    }
    const size_t rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
    void* data = std::aligned_alloc(kAlignment, std::max(rounded, kAlignment));
    if (data == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("device memory: the host refused ", bytes, " bytes"));
    }
    std::memset(data, 0, std::max(rounded, kAlignment));
    allocated_bytes_ += bytes;
    return DeviceBuffer(this, static_cast<std::byte*>(data), bytes);
  }
  int64_t allocated_bytes() const override { return allocated_bytes_; }
  int64_t MemoryBudget(const LlamaHyperparameters&, int64_t, int64_t) const override {
    return limit_bytes_;
  }

  absl::StatusOr<Weight> LoadWeight(const TensorView& tensor) override {
    Weight weight = {.dtype = tensor.dtype, .rows = tensor.rows, .cols = tensor.cols, .storage = {}};
    TS_ASSIGN_OR_RETURN(weight.storage, PackedWeight::Pack(tensor));
    return weight;
  }
  void Download(const void* device, std::span<std::byte> host) override {
    std::memcpy(host.data(), device, host.size());
  }
  void Upload(std::span<const std::byte> host, void* device) override {
    std::memcpy(device, host.data(), host.size());
  }
  absl::Status MapHostMemory(std::span<std::byte>) override { return absl::OkStatus(); }
  void Synchronize() override { AwaitAside(); }
  bool host_memory_is_far() const override { return host_memory_is_far_; }
  void Copy(std::span<const CopyPiece> pieces) override {
    for (const CopyPiece& piece : pieces) {
      std::memcpy(piece.to, piece.from, static_cast<size_t>(piece.bytes));
    }
  }
  void CopyAside(std::span<const CopyPiece> pieces) override {
    if (!host_memory_is_far_) return Copy(pieces);
    aside_.insert(aside_.end(), pieces.begin(), pieces.end());
  }
  void AwaitAside() override {
    Copy(aside_);
    aside_.clear();
  }
  const std::byte* Stage(std::span<const std::byte> rows) override { return rows.data(); }
  std::span<const float> ReadBack(std::span<const float> device, std::vector<float>*) override {
    return device;
  }
  void RunOnHost(int64_t units, absl::FunctionRef<void(int64_t, int)> fn) override {
    pool_.ForEach(units, fn);
  }
  int host_threads() const override { return pool_.threads(); }
  DoorbellStream* doorbell() override { return rings_doorbell_ ? &doorbell_ : nullptr; }

  void Embed(std::span<const TokenId> tokens, const Weight& embedding,
             MatrixView<float> x) override {
    const auto& weight = static_cast<const PackedWeight&>(*embedding.storage);
    pool_.ParallelFor(static_cast<int64_t>(tokens.size()), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) weight.Row(tokens[i], x.row(i).data());
    });
  }

  void RmsNorm(MatrixView<const float> x, const Weight& gain, float eps,
               MatrixView<float> out) override {
    const float* gains = Vector(gain);
    const auto rows = [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        kernels_.rms_norm(x.row(r).data(), gains, eps, x.cols, out.row(r).data());
      }
    };
    x.rows == 1 ? rows(0, 1) : pool_.ParallelFor(x.rows, rows);
  }

  void MatMul(MatrixView<const float> x, const Weight& w, MatrixView<float> out) override {
    const LinearJob job = {&w, out, Epilogue::kStore};
    linear_.Run(x, std::span(&job, 1));
  }
  void MatMulAdd(MatrixView<const float> x, const Weight& w, MatrixView<float> out) override {
    const LinearJob job = {&w, out, Epilogue::kAdd};
    linear_.Run(x, std::span(&job, 1));
  }
  void ProjectQkv(MatrixView<const float> x, const Weight& wq, const Weight& wk, const Weight& wv,
                  MatrixView<float> q, MatrixView<float> k, MatrixView<float> v) override {
    const LinearJob jobs[] = {{&wq, q, Epilogue::kStore},
                              {&wk, k, Epilogue::kStore},
                              {&wv, v, Epilogue::kStore}};
    linear_.Run(x, jobs);
  }
  void SwiGlu(MatrixView<const float> x, const Weight& gate, const Weight& up,
              MatrixView<float> out) override {
    linear_.RunGated(x, gate, up, out);
  }

  void AddBias(const Weight& bias, MatrixView<float> x) override {
    const float* values = Vector(bias);
    const auto rows = [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        float* row = x.row(r).data();
        for (int64_t c = 0; c < x.cols; ++c) row[c] += values[c];
      }
    };
    x.rows == 1 ? rows(0, 1) : pool_.ParallelFor(x.rows, rows);
  }

  void Rope(std::span<const int32_t> positions, const RopeTable& table,
            MatrixView<float> x) override {
    const int32_t d = table.head_dim, pairs = d / 2;
    const bool halves = table.layout == RopeLayout::kHalf;
    const auto rows = [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        TS_DCHECK(positions[r] < table.positions);
        const float* cos_sin = table.cos_sin.As<float>() + int64_t{positions[r]} * d;
        for (int64_t head = 0; head < x.cols; head += d) {
          float* slice = x.row(r).data() + head;
          for (int32_t i = 0; i < pairs; ++i) {
            float& a = slice[halves ? i : 2 * i];
            float& b = slice[halves ? i + pairs : 2 * i + 1];
            const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], old_a = a;
            a = old_a * c - b * s;
            b = old_a * s + b * c;
          }
        }
      }
    };
    x.rows == 1 ? rows(0, 1) : pool_.ParallelFor(x.rows, rows);
  }

  void WriteRows(MatrixView<const float> k, MatrixView<const float> v,
                 std::span<BFloat16* const> rows, int32_t head_dim) override {
    const int64_t kv_heads = k.cols / head_dim;
    const auto tokens = [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        for (int64_t head = 0; head < kv_heads; ++head) {
          BFloat16* row = rows[i * kv_heads + head];
          const float* key = k.row(i).data() + head * head_dim;
          const float* value = v.row(i).data() + head * head_dim;
          for (int32_t c = 0; c < head_dim; ++c) row[c] = ToBFloat16(key[c]);
          for (int32_t c = 0; c < head_dim; ++c) row[head_dim + c] = ToBFloat16(value[c]);
        }
      }
    };
    k.rows == 1 ? tokens(0, 1) : pool_.ParallelFor(k.rows, tokens);
  }

  void Attend(const RowAttention& attention) override { attention_.Attend(attention); }
  void QuantizePage(const BFloat16* rows, const QuantizedPageShape& shape,
                    std::byte* page) override {
    QuantizePageRef(rows, shape, page);
  }
  void AttendQuantized(const QuantizedAttention& attention) override {
    attention_.AttendQuantized(attention);
  }
  void ReduceLogits(MatrixView<const float> logits, std::span<const LogitQuery> queries,
                    std::span<LogitReduction> out) override {
    logits_.Reduce(logits, queries, out);
  }

 protected:
  void Free(std::byte* data, int64_t bytes) override {
    std::free(data);
    allocated_bytes_ -= bytes;
  }

 private:
  // The values of a weight of one row, valid until the next call.
  const float* Vector(const Weight& weight) {
    vector_.resize(weight.cols);
    static_cast<const PackedWeight&>(*weight.storage).Row(0, vector_.data());
    return vector_.data();
  }

  const int64_t limit_bytes_;
  int64_t allocated_bytes_ = 0;
  const bool rings_doorbell_;
  const bool host_memory_is_far_;
  std::vector<CopyPiece> aside_;  // put off
  HostDoorbell doorbell_;
  const CpuKernels& kernels_;
  ThreadPool pool_;
  CpuLinear linear_;
  CpuAttention attention_;
  CpuLogits logits_;
  std::vector<float> vector_;
};

int UsableCores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

}  // namespace

const CpuKernels& KernelsFor(SimdLevel level) {
  switch (level) {
    case SimdLevel::kAvx512: return avx512::Kernels();
    case SimdLevel::kAvx2: return avx2::Kernels();
    case SimdLevel::kScalar: break;
  }
  return scalar::Kernels();
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuBackendOptions& options) {
  if (options.threads < 0 || options.threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, ", limit 0..1024"));
  }
  CpuBackendOptions chosen = options;
  if (chosen.threads == 0) chosen.threads = UsableCores();
  return std::make_unique<CpuBackend>(chosen, std::min(DetectSimdLevel(), options.max_simd_level));
}

}  // namespace tailor
