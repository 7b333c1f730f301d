#include "worker/ops/cuda/cuda_backend.h"

#include <algorithm>
#include <functional>

#include "common/status.h"
#include "worker/ops/cuda/cuda_weight.h"
#include "worker/ops/cuda/own_memory.h"

namespace tailor::cuda {
namespace {

static_assert(kRingBytes == ArgumentRing::DeviceBytes() &&
              kStageBytes == CudaContext::kStageBytes && kScratchLanes == StepRecorder::kLanes &&
              kFirstStepBytes == StepArguments::kFirstBytes &&
              kMostStepBytes == StepArguments::kMostBytes);

// Rows of F32 weights never go through the tensor cores: what a file keeps in F32 is meant exactly.
bool IsSkinny(int64_t rows, WeightType type) {
  return rows <= kSkinnyRows || type == WeightType::kF32;
}

RopeRef ToRope(const RopeTable& table) {
  return {.cos_sin = table.cos_sin.As<float>(),
          .head_dim = table.head_dim,
          .halves = table.layout == RopeLayout::kHalf};
}

template <typename T>
Rows<T> PartOf(const Rows<T>& x, int32_t first, int32_t count) {
  return {x.data + first * x.stride, x.stride, count, x.cols};
}

}  // namespace

CudaBackend::CudaBackend(std::unique_ptr<CudaContext> context, CudaCopies copies, int host_threads,
                         const std::string& blas_library)
    : context_(std::move(context)),
      many_rows_(context_.get(), blas_library),
      own_bytes_(context_->pool().asked_bytes()),
      attention_(context_.get()),
      select_(context_.get()),
      doorbell_(context_.get()),
      logits_(context_.get()),
      copies_(std::move(copies)),
      host_(host_threads) {
  TS_CHECK(own_bytes_ <= kStartBytes);
}

CudaBackend::~CudaBackend() {
  context_->Bind();
  (void)cudaStreamSynchronize(context_->stream().Direct());
  (void)copies_.Synchronize();
  // The owner of the memory may have unmapped it already: an error says nothing new.
  for (const std::span<std::byte> range : mapped_) (void)cudaHostUnregister(range.data());
}

absl::Status CudaBackend::CheckModel(const LlamaHyperparameters& model) const {
  if (model.head_dim == 64 || model.head_dim == 128) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("CUDA backend: head_dim is ", model.head_dim, ", supported are 64 and 128"));
}

absl::StatusOr<DeviceBuffer> CudaBackend::Allocate(int64_t bytes, MemoryKind kind) {
  context_->Bind();
  const cudaStream_t stream = context_->stream().Direct();  // what a step freed is free after this
  TS_ASSIGN_OR_RETURN(std::byte * data, context_->pool().Allocate(bytes, static_cast<int>(kind)));
  CheckCuda(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream), "cudaMemsetAsync");
  return DeviceBuffer(this, data, bytes);
}

MemoryUse CudaBackend::TakeMemoryUse() {
  DevicePool& pool = context_->pool();
  MemoryUse use = {
      .held = {}, .peak = {}, .total_peak = pool.peak_bytes(), .capacity = pool.capacity()};
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    use.held[kind] = pool.kind_bytes(kind);
    use.peak[kind] = pool.peak_kind_bytes(kind);
  }
  pool.StartPeaks();
  return use;
}

int64_t CudaBackend::MemoryBudget(const LlamaHyperparameters& model, int64_t rows,
                                  int64_t tokens) const {
  return context_->pool().capacity() - own_bytes_ -
         LaterBytes(model, rows, tokens, context_->multiprocessors());
}

void CudaBackend::Free(std::byte* data, int64_t) { context_->recorder().Free(data); }

absl::StatusOr<Weight> CudaBackend::LoadWeight(const TensorView& tensor) {
  TS_ASSIGN_OR_RETURN(const std::vector<std::byte> packed, PackForDevice(tensor));
  TS_ASSIGN_OR_RETURN(DeviceBuffer memory,
                      Allocate(static_cast<int64_t>(packed.size()), MemoryKind::kWeights));
  Upload(packed, memory.data());
  const WeightLayout layout = WeightLayout::Of(tensor.dtype, tensor.rows, tensor.cols);
  return Weight{.dtype = tensor.dtype,
                .rows = tensor.rows,
                .cols = tensor.cols,
                .storage = std::make_shared<CudaWeight>(std::move(memory), layout)};
}

void CudaBackend::Download(const void* device, std::span<std::byte> host) {
  context_->Bind();
  CheckCuda(cudaMemcpyAsync(host.data(), device, host.size(), cudaMemcpyDefault,
                            context_->stream().Direct()),
            "cudaMemcpyAsync to the host");
  context_->Synchronize();
}

void CudaBackend::Upload(std::span<const std::byte> host, void* device) {
  context_->Bind();
  CheckCuda(cudaMemcpyAsync(device, host.data(), host.size(), cudaMemcpyDefault,
                            context_->stream().Direct()),
            "cudaMemcpyAsync from the host");
  // Of other memory the call has taken its copy; of mapped memory the copy is yet to come.
  if (IsMapped(host)) context_->Synchronize();
}

absl::Status CudaBackend::MapHostMemory(std::span<std::byte> host) {
  context_->Bind();
  TS_RETURN_IF_ERROR(CudaStatus(
      cudaHostRegister(host.data(), host.size(), cudaHostRegisterMapped | cudaHostRegisterPortable),
      "cudaHostRegister"));
  mapped_.push_back(host);
  void* device = nullptr;
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaHostGetDevicePointer(&device, host.data(), 0), "cudaHostGetDevicePointer"));
  if (device != host.data()) {
    return absl::UnimplementedError(
        "CUDA backend: this device sees the host's memory at other addresses");
  }
  return absl::OkStatus();
}

bool CudaBackend::IsMapped(std::span<const std::byte> host) const {
  const std::less_equal<const std::byte*> before;
  return std::any_of(mapped_.begin(), mapped_.end(), [&](std::span<const std::byte> range) {
    return before(range.data(), host.data()) &&
           before(host.data() + host.size(), range.data() + range.size());
  });
}

void CudaBackend::Synchronize() {
  context_->Bind();
  context_->Synchronize();
  CheckCuda(copies_.Synchronize(), "cudaStreamSynchronize of copies aside");
}

const std::byte* CudaBackend::Stage(std::span<const std::byte> rows) {
  if (rows.empty() || IsMapped(rows) || context_->pool().Contains(rows.data())) return rows.data();
  TS_CHECK(static_cast<int64_t>(rows.size()) <= CudaContext::kStageBytes);
  Upload(rows, context_->stage());
  return context_->stage();
}

std::span<const float> CudaBackend::ReadBack(std::span<const float> device,
                                             std::vector<float>* room) {
  room->resize(device.size());
  Download(device.data(), std::as_writable_bytes(std::span(*room)));
  return *room;
}

void CudaBackend::BeginStep(int rows) {
  context_->Bind();
  context_->recorder().Begin(rows);
}

void CudaBackend::EndStep() {
  context_->Bind();
  context_->recorder().End();
}

void CudaBackend::Embed(std::span<const TokenId> tokens, const Weight& embedding,
                        MatrixView<float> x) {
  context_->Bind();
  LaunchEmbed(context_->Put(tokens), CudaWeight::Of(embedding), ToRows(x), context_->stream());
  CheckLaunch("Embed");
}

void CudaBackend::RmsNorm(MatrixView<const float> x, const Weight& gain, float eps,
                          MatrixView<float> out) {
  context_->Bind();
  LaunchRmsNorm(ToRows(x), CudaWeight::Of(gain), eps, ToRows(out), context_->stream());
  CheckLaunch("RmsNorm");
}

Rows<const float> CudaBackend::Padded(MatrixView<const float> x) {
  const bool aligned = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 4 == 0;
  if (aligned && x.cols % 32 == 0) return ToRows(x);
  const auto cols = static_cast<int32_t>((x.cols + 31) / 32 * 32);
  const Rows<float> packed = {context_->scratch().Take<float>(x.rows * cols, *context_), cols,
                              static_cast<int32_t>(x.rows), cols};
  LaunchPackRows(ToRows(x), packed, context_->stream());
  return {packed.data, packed.stride, packed.rows, packed.cols};
}

void CudaBackend::Linear(Rows<const float> x, std::span<const LinearJob> jobs, Epilogue epilogue) {
  const WeightType type = jobs[0].w.type;
  const bool mixed = std::any_of(jobs.begin(), jobs.end(),
                                 [&](const LinearJob& job) { return job.w.type != type; });
  if (mixed) {
    for (const LinearJob& job : jobs) Linear(x, std::span(&job, 1), epilogue);
    return;
  }
  if (!IsSkinny(x.rows, type)) return many_rows_.Run(x, jobs, epilogue);
  for (int32_t first = 0; first < x.rows; first += kSkinnyRows) {
    const int32_t count = std::min(kSkinnyRows, x.rows - first);
    LinearJob part[kMaxJobs];
    for (size_t j = 0; j < jobs.size(); ++j) {
      part[j] = {jobs[j].w, PartOf(jobs[j].out, first, count)};
    }
    LaunchLinear(PartOf(x, first, count), part, static_cast<int32_t>(jobs.size()), epilogue,
                 context_->stream());
  }
}

void CudaBackend::MatMul(MatrixView<const float> x, const Weight& w, MatrixView<float> out) {
  context_->Bind();
  context_->scratch().Begin();
  const LinearJob job = {CudaWeight::Of(w), ToRows(out)};
  Linear(Padded(x), std::span(&job, 1), Epilogue::kStore);
  CheckLaunch("MatMul");
}

void CudaBackend::MatMulAdd(MatrixView<const float> x, const Weight& w, MatrixView<float> out) {
  context_->Bind();
  context_->scratch().Begin();
  const LinearJob job = {CudaWeight::Of(w), ToRows(out)};
  Linear(Padded(x), std::span(&job, 1), Epilogue::kAdd);
  CheckLaunch("MatMulAdd");
}

void CudaBackend::ProjectQkv(MatrixView<const float> x, const Weight& wq, const Weight& wk,
                             const Weight& wv, MatrixView<float> q, MatrixView<float> k,
                             MatrixView<float> v) {
  context_->Bind();
  context_->scratch().Begin();
  const LinearJob jobs[] = {{CudaWeight::Of(wq), ToRows(q)},
                            {CudaWeight::Of(wk), ToRows(k)},
                            {CudaWeight::Of(wv), ToRows(v)}};
  Linear(Padded(x), jobs, Epilogue::kStore);
  CheckLaunch("ProjectQkv");
}

void CudaBackend::SwiGlu(MatrixView<const float> x, const Weight& gate, const Weight& up,
                         MatrixView<float> out) {
  context_->Bind();
  context_->scratch().Begin();
  const Rows<const float> in = Padded(x);
  const WeightRef &g = CudaWeight::Of(gate), &u = CudaWeight::Of(up);
  if (x.rows <= kSkinnyRows && g.type == u.type) {
    LaunchGated(in, g, u, ToRows(out), context_->stream());
    return CheckLaunch("SwiGlu");
  }
  const Rows<float> gated = {context_->scratch().Take<float>(out.rows * out.cols, *context_),
                             out.cols, static_cast<int32_t>(out.rows),
                             static_cast<int32_t>(out.cols)};
  const LinearJob jobs[] = {{g, gated}, {u, ToRows(out)}};
  Linear(in, jobs, Epilogue::kStore);
  LaunchSiluMultiply({gated.data, gated.stride, gated.rows, gated.cols}, ToRows(out),
                     context_->stream());
  CheckLaunch("SwiGlu");
}

void CudaBackend::AddBias(const Weight& bias, MatrixView<float> x) {
  context_->Bind();
  LaunchAddBias(CudaWeight::Of(bias), ToRows(x), context_->stream());
  CheckLaunch("AddBias");
}

void CudaBackend::Rope(std::span<const int32_t> positions, const RopeTable& table,
                       MatrixView<float> x) {
  context_->Bind();
  LaunchRope(context_->Put(positions), ToRope(table), ToRows(x), context_->stream());
  CheckLaunch("Rope");
}

void CudaBackend::WriteRows(MatrixView<const float> k, MatrixView<const float> v,
                            std::span<BFloat16* const> rows, int32_t head_dim) {
  context_->Bind();
  LaunchWriteRows(ToRows(k), ToRows(v), reinterpret_cast<uint16_t* const*>(context_->Put(rows)),
                  head_dim, context_->stream());
  CheckLaunch("WriteRows");
}

void CudaBackend::RopeAndWriteRows(std::span<const int32_t> positions, const RopeTable& table,
                                   MatrixView<float> q, MatrixView<float> k,
                                   MatrixView<const float> v, std::span<BFloat16* const> rows,
                                   std::span<BFloat16* const> more_rows) {
  context_->Bind();
  const auto put = [&](std::span<BFloat16* const> to) {
    return reinterpret_cast<uint16_t* const*>(context_->Put(to));
  };
  const int32_t* const at = context_->Put(positions);
  uint16_t* const* const first = put(rows);
  uint16_t* const* const second = put(more_rows);
  LaunchRopeRows(at, ToRope(table), ToRows(q), ToRows(k), ToRows(v), first, second,
                 context_->stream());
  CheckLaunch("RopeAndWriteRows");
}

void CudaBackend::Attend(const RowAttention& attention) {
  context_->Bind();
  attention_.Attend(attention);
  CheckLaunch("Attend");
}

void CudaBackend::QuantizePage(const BFloat16* rows, const QuantizedPageShape& shape,
                               std::byte* page) {
  context_->Bind();
  LaunchQuantizePage(reinterpret_cast<const uint16_t*>(rows), {shape.bits, shape.head_dim}, page,
                     context_->stream());
  CheckLaunch("QuantizePage");
}

void CudaBackend::AttendQuantized(const QuantizedAttention& attention) {
  context_->Bind();
  attention_.AttendQuantized(attention);
  CheckLaunch("AttendQuantized");
}

}  // namespace tailor::cuda
