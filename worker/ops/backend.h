// The ops interface: one forward pass is written over it, once. Buffers are device memory (opaque
// to the caller unless the backend is the CPU); calls are ordered as on one stream. A Backend is
// used by one thread at a time; two backends may live in one process.
//
// Numerics: on the CPU one row's result does not depend on how many rows the call has, nor on
// thread count or chunking. So a token's KV is the same from any prefill chunk size. CUDA keeps
// this among calls of up to 16 rows and, with its own kernels, among calls of more; the two differ
// by the rounding of inputs to bf16. With cuBLASLt, calls of more than 16 rows have the same bits
// when repeated with the same shapes on the same device and library version; beside other numbers
// of rows they are within the same bound, and their bits are nobody's to rely on
// (docs/decisions/0012-cublaslt.md).
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/bfloat16.h"
#include "common/cpu/simd_level.h"
#include "common/matrix_view.h"
#include "common/model_file/model_file.h"
#include "common/types.h"
#include "worker/ops/attention.h"
#include "worker/ops/logits.h"
#include "worker/ops/step.h"
#include "worker/ops/weight.h"

namespace tailor {

class Backend;
class DeviceSelect;
class DoorbellStream;  // worker/ops/doorbell.h

// What device memory is for. A backend with a budget accounts every byte to one of these.
enum class MemoryKind { kWorkspace, kWeights, kCodes, kSketch, kResident, kRowCache };
inline constexpr int kMemoryKinds = 6;

// A device's memory by MemoryKind, in bytes.
struct MemoryUse {
  std::array<int64_t, kMemoryKinds> held = {}, peak = {};
  int64_t total_peak = 0;  // of all kinds at one time
  int64_t capacity = 0;    // 0: this backend keeps no such books
  int64_t free_bytes() const {
    return capacity - std::accumulate(held.begin(), held.end(), int64_t{0});
  }
};

// Owns `bytes` of device memory, 64-byte aligned, zeroed at allocation. Move-only.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Backend* backend, std::byte* data, int64_t bytes)
      : backend_(backend), data_(data), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* As() const {
    return reinterpret_cast<T*>(data_);
  }
  // The buffer as rows x cols of T; TS_CHECKs that it fits.
  template <typename T>
  MatrixView<T> Matrix(int64_t rows, int64_t cols) const {
    TS_CHECK(rows * cols * static_cast<int64_t>(sizeof(T)) <= bytes_);
    return {As<T>(), rows, cols};
  }

 private:
  Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Part of a copy between device memory and mapped memory of the host, in either direction or within
// one of them. Addresses and bytes are multiples of kCopyAlignment.
struct CopyPiece {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  int64_t bytes = 0;
};
inline constexpr int64_t kCopyAlignment = 16;

// cos and sin of every (position, pair), made once per model from theta and scaling.
struct RopeTable {
  static int64_t Bytes(int32_t head_dim, int64_t positions) {
    return positions * head_dim * static_cast<int64_t>(sizeof(float));
  }
  DeviceBuffer cos_sin;  // [positions][head_dim / 2][2] fp32
  int64_t positions = 0;
  int32_t head_dim = 0;
  RopeLayout layout = RopeLayout::kHalf;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;

  // Errors: Unimplemented names what of the model this backend has no kernels for.
  virtual absl::Status CheckModel(const LlamaHyperparameters&) const { return absl::OkStatus(); }

  // --- memory ---
  // Errors: ResourceExhausted "device memory: N bytes asked, M free of L".
  virtual absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes,
                                                MemoryKind kind = MemoryKind::kWorkspace) = 0;
  virtual int64_t allocated_bytes() const = 0;
  // What is held, and the most that was since the last call.
  virtual MemoryUse TakeMemoryUse() { return {}; }
  // What Allocate may have given in all while ops of up to `rows` rows over `tokens` tokens still
  // find room for their own scratch; 0: no limit.
  virtual int64_t MemoryBudget(const LlamaHyperparameters&, int64_t /*rows*/,
                               int64_t /*tokens*/) const {
    return 0;
  }
  // Keeps a weight in its file's format (possibly reordered, never inflated). The tensor's bytes may
  // go away afterwards. Errors: Unimplemented names the dtype.
  virtual absl::StatusOr<Weight> LoadWeight(const TensorView& tensor) = 0;
  virtual void Download(const void* device, std::span<std::byte> host) = 0;
  virtual void Upload(std::span<const std::byte> host, void* device) = 0;

  // --- memory of the host (a CPU has none beside its own: these do nothing there) ---
  // From now on ops may read and write `host` in place, at the same addresses. It must stay mapped
  // while the backend lives. Errors: ResourceExhausted, Unimplemented.
  virtual absl::Status MapHostMemory(std::span<std::byte> host) = 0;
  // All ops and copies so far have ended: what they wrote to mapped memory is there for other
  // threads and processes.
  virtual void Synchronize() = 0;
  // Whether ops read that memory much slower than their own: what they read often is copied first.
  virtual bool host_memory_is_far() const { return false; }
  // All pieces in one op. No piece writes what another one reads or writes.
  virtual void Copy(std::span<const CopyPiece> pieces) = 0;
  // The same beside the ops: begins once the ops and copies enqueued so far have ended, ends at any
  // time before an AwaitAside or Synchronize does.
  virtual void CopyAside(std::span<const CopyPiece> pieces) = 0;
  // Later ops start after the copies aside enqueued so far have ended.
  virtual void AwaitAside() = 0;
  // `rows` as ops can read them, valid for the ops up to the next Stage: where they are if that is
  // device memory or mapped, else a copy.
  virtual const std::byte* Stage(std::span<const std::byte> rows) = 0;
  // The values at `device` as the host can read them; `room` holds them where a copy is needed.
  virtual std::span<const float> ReadBack(std::span<const float> device,
                                          std::vector<float>* room) = 0;

  // Selection of dominant rows by the device itself (worker/ops/cuda/device_select.h), which lives
  // as long as the backend; null where a host's threads select.
  virtual DeviceSelect* device_select() { return nullptr; }

  // Host work on the backend's threads: fn(unit, worker), worker < host_threads().
  virtual void RunOnHost(int64_t units, absl::FunctionRef<void(int64_t unit, int worker)> fn) = 0;
  virtual int host_threads() const = 0;
  // For queries that go to the store without coming back here first; null: ReadBack costs nothing.
  virtual DoorbellStream* doorbell() { return nullptr; }

  // --- a decode step of `rows` rows (a CPU does every op as it is called) ---
  // The ops between the two may all be enqueued when the step ends (CUDA: as a graph that is kept
  // for the next such step). Every other call may come between them too, but enqueues at once what
  // there is: Allocate, Upload, Download, ReadBack, Stage of rows elsewhere, Synchronize.
  virtual void BeginStep(int /*rows*/) {}
  virtual void EndStep() {}
  // Ops of different lanes touch nothing that one of them writes, so they may run side by side: all
  // after the ops before the first lane, in order within a lane, which may be gone on with; ops
  // after EndLanes see them done.
  virtual void BeginLane(int /*lane*/) {}
  virtual void EndLanes() {}
  virtual StepStats step_stats() const { return {}; }

  absl::StatusOr<RopeTable> MakeRopeTable(const LlamaHyperparameters& model, int64_t positions);

  // --- linear layers and pointwise ---
  // x[i] = embedding row tokens[i].                       x: [tokens][hidden]
  virtual void Embed(std::span<const TokenId> tokens, const Weight& embedding,
                     MatrixView<float> x) = 0;
  // out = x / sqrt(mean(x^2) + eps) * gain                x, out: [rows][hidden]; gain: [1][hidden]
  virtual void RmsNorm(MatrixView<const float> x, const Weight& gain, float eps,
                       MatrixView<float> out) = 0;
  // out = x W^T                                           x: [rows][W.cols], out: [rows][W.rows]
  virtual void MatMul(MatrixView<const float> x, const Weight& w, MatrixView<float> out) = 0;
  // out += x W^T
  virtual void MatMulAdd(MatrixView<const float> x, const Weight& w, MatrixView<float> out) = 0;
  // Three products of one input in one call (one fork-join on a CPU).
  virtual void ProjectQkv(MatrixView<const float> x, const Weight& wq, const Weight& wk,
                          const Weight& wv, MatrixView<float> q, MatrixView<float> k,
                          MatrixView<float> v) = 0;
  // out = silu(x Wg^T) * (x Wu^T),  silu(a) = a / (1 + e^-a)
  virtual void SwiGlu(MatrixView<const float> x, const Weight& gate, const Weight& up,
                      MatrixView<float> out) = 0;
  // x += bias, in every row.                              x: [rows][n], bias: [1][n]
  virtual void AddBias(const Weight& bias, MatrixView<float> x) = 0;
  // Rotates each head_dim slice of each row of x in place; row i is at positions[i].
  virtual void Rope(std::span<const int32_t> positions, const RopeTable& table,
                    MatrixView<float> x) = 0;

  // --- the cache ---
  // Rounds token i's K and V of every KV head to bf16 and writes them as one row [2][head_dim] at
  // rows[i * kv_heads + head].                            k, v: [tokens][kv_heads * head_dim]
  virtual void WriteRows(MatrixView<const float> k, MatrixView<const float> v,
                         std::span<BFloat16* const> rows, int32_t head_dim) = 0;
  // Rope of q and k, then WriteRows of k and v to `rows` and to `more_rows`: those calls' bits.
  virtual void RopeAndWriteRows(std::span<const int32_t> positions, const RopeTable& table,
                                MatrixView<float> q, MatrixView<float> k, MatrixView<const float> v,
                                std::span<BFloat16* const> rows,
                                std::span<BFloat16* const> more_rows);
  virtual void Attend(const RowAttention& attention) = 0;
  // rows: [kPageTokens][2][head_dim] -> page: shape.PageBytes()
  virtual void QuantizePage(const BFloat16* rows, const QuantizedPageShape& shape,
                            std::byte* page) = 0;
  virtual void AttendQuantized(const QuantizedAttention& attention) = 0;

  // --- sampling ---
  // out[r] answers queries[r] of row r; where no candidate is wanted the row is not read and the
  // answer empty. The same bits on every backend (logits.h). logits: [queries or more][vocab]
  virtual void ReduceLogits(MatrixView<const float> logits, std::span<const LogitQuery> queries,
                            std::span<LogitReduction> out) = 0;

 protected:
  friend class DeviceBuffer;
  virtual void Free(std::byte* data, int64_t bytes) = 0;
};

struct CpuBackendOptions {
  int threads = 0;                 // 0: one per core this process may run on
  int64_t memory_limit_bytes = 0;  // of Allocate; 0: no limit
  // The best SIMD level to use. Lower is slower and there for tests: it never raises what the CPU
  // and TAILOR_SIMD allow.
  SimdLevel max_simd_level = SimdLevel::kAvx512;
  bool doorbell = false;  // queries go to the store as a device's do: slower, and there for tests
  // As if the host's memory were far, with copies aside as late as they may come; there for tests.
  bool far_host_memory = false;
};

// Chooses the SIMD level once (common/cpu/simd_level.h).
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuBackendOptions& options);

}  // namespace tailor
