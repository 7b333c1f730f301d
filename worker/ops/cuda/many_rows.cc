#include "worker/ops/cuda/many_rows.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "common/status.h"

namespace tailor::cuda {
namespace {

constexpr int kWorkspace = 0;  // MemoryKind::kWorkspace
constexpr char kToolkitFolder[] = "/usr/local/cuda/lib64/";
constexpr int32_t kWholeTiles = 128;

// 16 MiB for inputs, which are 2048 rows of 4096; twice as much for a slab of weights, one wave of
// 128 x 128 tiles for a chunk of 512 rows on a device of 132 multiprocessors; and for the library
// what NVIDIA names for its largest devices. Less where the pool is small: 1/26 of it in all.
constexpr int64_t kMostBytes = int64_t{16} << 20;
int64_t InputBytes(const DevicePool& pool) {
  return std::min(kMostBytes, pool.capacity() / 128 / 256 * 256);
}

void Say(const std::string& what) { std::fprintf(stderr, "CUDA backend: %s\n", what.c_str()); }

// How many rows of `row_bytes` a piece of memory holds, in whole tiles where it holds any.
int32_t RowsThatFit(std::span<const std::byte> memory, int64_t row_bytes) {
  const int64_t fit = static_cast<int64_t>(memory.size()) / row_bytes;
  return static_cast<int32_t>(fit < kWholeTiles ? fit : fit / kWholeTiles * kWholeTiles);
}

// Columns of a weight's row with its padding, of any format but F32.
int32_t PaddedColumns(const WeightRef& w) { return (w.cols + 7) / 8 * 8; }

template <typename T>
Rows<T> SomeRows(const Rows<T>& x, int32_t first, int32_t count) {
  return {x.data + first * x.stride, x.stride, count, x.cols};
}
// Outputs [first, first + count) of a product.
LinearJob SomeOutputs(const LinearJob& job, int32_t first, int32_t count) {
  LinearJob part = job;
  part.w.codes = static_cast<const std::byte*>(job.w.codes) + int64_t{first} * job.w.pieces * 16;
  part.w.scales =
      static_cast<const std::byte*>(job.w.scales) + int64_t{first} * job.w.scale_row_bytes;
  part.w.rows = count;
  part.out.data += first;
  part.out.cols = count;
  return part;
}

}  // namespace

ManyRows::ManyRows(CudaContext* context, const std::string& library) : context_(context) {
  const absl::Status opened = Open(library);
  Say(opened.ok() ? absl::StrCat("more than ", kSkinnyRows, " rows by ", blas_->description())
                  : absl::StrCat("more than ", kSkinnyRows,
                                 " rows by its own kernels: ", std::string(opened.message())));
}

absl::Status ManyRows::Open(const std::string& library) {
  if (library == "off") return absl::UnavailableError("cuBLASLt is switched off");
  std::vector<std::string> files = {library};
  if (library.empty()) {
    files = {CublasLtApi::LibraryName(), kToolkitFolder + CublasLtApi::LibraryName()};
  }
  const int64_t unit = InputBytes(context_->pool());
  TS_ASSIGN_OR_RETURN(std::byte * memory, context_->pool().Allocate(5 * unit, kWorkspace));
  const auto part = [&](int64_t first, int64_t units) {
    return std::span(memory + first * unit, static_cast<size_t>(units * unit));
  };
  auto opened = BlasLt::Open(files, part(3, 2));
  if (!opened.ok()) {
    context_->pool().Free(memory);
    return opened.status();
  }
  inputs_ = part(0, 1);
  weights_ = part(1, 2);
  blas_ = *std::move(opened);
  return absl::OkStatus();
}

void ManyRows::Run(Rows<const float> x, std::span<const LinearJob> jobs, Epilogue epilogue) {
  const int32_t block = blas_ == nullptr ? 0 : RowsThatFit(inputs_, int64_t{x.cols} * 2);
  if (block == 0) {
    for (const LinearJob& job : jobs) {
      LaunchGemm(x, job.w, epilogue, job.out, context_->stream());
    }
    return;
  }
  for (int32_t first = 0; first < x.rows; first += block) {
    const int32_t count = std::min(block, x.rows - first);
    const Rows<const float> part = SomeRows(x, first, count);
    Round(part);
    for (const LinearJob& job : jobs) {
      RunBlock(part, {job.w, SomeRows(job.out, first, count)}, epilogue);
    }
  }
}

// A slab that fails is multiplied by gemm.cu, which rounds the inputs for itself; those before it
// are done.
void ManyRows::RunBlock(Rows<const float> x, const LinearJob& job, Epilogue epilogue) {
  const bool in_place = job.w.type == WeightType::kBF16;
  const int32_t slab =
      in_place ? job.w.rows : RowsThatFit(weights_, int64_t{PaddedColumns(job.w)} * 2);
  TS_CHECK(slab > 0);  // twice a row of inputs fits where one does
  for (int32_t first = 0; first < job.w.rows; first += slab) {
    const LinearJob part = SomeOutputs(job, first, std::min(slab, job.w.rows - first));
    if (blas_ != nullptr) {
      const absl::Status multiplied = Multiply(x, part, epilogue);
      if (multiplied.ok()) continue;
      const std::string why(multiplied.message());
      if (!absl::IsUnimplemented(multiplied)) {
        Say(absl::StrCat(why, "; more than ", kSkinnyRows, " rows by its own kernels from now on"));
        context_->Synchronize();  // what it has enqueued is its own until then
        blas_.reset();
      } else if (!said_unsupported_) {
        Say(absl::StrCat(why, "; such shapes by its own kernels"));
        said_unsupported_ = true;
      }
    }
    LaunchGemm(x, part.w, epilogue, part.out, context_->stream());
  }
}

absl::Status ManyRows::Multiply(Rows<const float> x, const LinearJob& job, Epilogue epilogue) {
  const Rows<const uint16_t> w = Weights(job.w);
  return blas_->Multiply(
      {.x = {reinterpret_cast<const uint16_t*>(inputs_.data()), x.cols, x.rows, w.cols},
       .w = w,
       .out = job.out,
       .epilogue = epilogue},
      context_->stream());
}

void ManyRows::Round(Rows<const float> x) {
  LaunchRoundRows(x, reinterpret_cast<uint16_t*>(inputs_.data()), context_->stream());
}

Rows<const uint16_t> ManyRows::Weights(const WeightRef& w) {
  const int32_t cols = PaddedColumns(w);
  if (w.type == WeightType::kBF16) {
    return {static_cast<const uint16_t*>(w.codes), cols, w.rows, cols};
  }
  auto* expanded = reinterpret_cast<uint16_t*>(weights_.data());
  LaunchExpandWeight(w, expanded, context_->stream());
  return {expanded, cols, w.rows, cols};
}

}  // namespace tailor::cuda
