// One row a kernel: bytes or FLOPs, the rate, and its share of the ceiling that bounds it. Inputs
// are cold: weights are cycled through so that more lies between two uses than any cache holds.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>

#include "common/status.h"
#include "tests/bench/gpu/rig.h"
#include "worker/cache/device_fetcher.h"

namespace tailor::bench {
namespace {

constexpr int kTries = 5;
constexpr int64_t kFloat = sizeof(float);

struct Kernel {
  std::string name;
  double work = 0;     // bytes or FLOPs of one call
  double ceiling = 0;  // of those a second
  bool is_flops = false;
};

// Runs until about 20 ms have passed in one go; the median of several.
double SecondsOf(Rig& rig, const std::function<void(int)>& call) {
  Backend& ops = rig.ops();
  const bool tiny = rig.options.geometry == "tiny";
  call(0);
  ops.Synchronize();
  const Stopwatch first;
  call(1);
  ops.Synchronize();
  const double once = std::max(first.seconds(), 1e-6);
  const int count = tiny ? 1 : std::clamp(static_cast<int>(0.02 / once), 1, 2000);
  std::vector<double> tries;
  for (int t = 0; t < (tiny ? 1 : kTries); ++t) {
    const Stopwatch watch;
    for (int i = 0; i < count; ++i) call(2 + i);
    ops.Synchronize();
    tries.push_back(watch.seconds() / count);
  }
  return Median(tries);
}

void AddRow(Rig& rig, const Kernel& kernel, double seconds) {
  const double rate = kernel.work / seconds;
  rig.results["kernels"].push_back(
      {{"kernel", kernel.name},
       {kernel.is_flops ? "flops" : "bytes", kernel.work},
       {"us", seconds * 1e6},
       {kernel.is_flops ? "tflop_s" : "gb_s", rate / (kernel.is_flops ? 1e12 : 1e9)},
       {"share_of_ceiling", rate / kernel.ceiling}});
  std::fprintf(stderr, "kernel %-44s %10.1f us %9.1f %s  %5.1f %% of the ceiling\n",
               kernel.name.c_str(), seconds * 1e6, rate / (kernel.is_flops ? 1e12 : 1e9),
               kernel.is_flops ? "TFLOP/s" : "GB/s", 100 * rate / kernel.ceiling);
}

void Measure(Rig& rig, const Kernel& kernel, const std::function<void(int)>& call) {
  AddRow(rig, kernel, SecondsOf(rig, call));
}

struct Shape {
  const char* name;
  int64_t rows, cols;
};

std::vector<Shape> ProductShapes(const LlamaHyperparameters& m) {
  const int64_t q = int64_t{m.q_heads} * m.head_dim, kv = int64_t{m.kv_heads} * m.head_dim;
  return {{"wq", q, m.hidden},
          {"wk", kv, m.hidden},
          {"gate", m.ffn_hidden, m.hidden},
          {"down", m.hidden, m.ffn_hidden}};
}

// Copies enough to leave no cache warm, two at least.
absl::StatusOr<std::vector<Weight>> ColdWeights(Rig& rig, DType dtype, const Shape& shape) {
  constexpr int64_t kColdBytes = int64_t{256} << 20;
  const std::vector<std::byte> bytes = RandomWeightBytes(dtype, shape.rows, shape.cols, 3);
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t copies =
      rig.options.geometry == "tiny" ? 2 : std::max<int64_t>(2, kColdBytes / size);
  std::vector<Weight> weights;
  for (int64_t i = 0; i < copies; ++i) {
    TS_ASSIGN_OR_RETURN(Weight weight, rig.ops().LoadWeight({.name = shape.name,
                                                             .dtype = dtype,
                                                             .rows = shape.rows,
                                                             .cols = shape.cols,
                                                             .bytes = bytes}));
    weights.push_back(std::move(weight));
  }
  return weights;
}

absl::Status Products(Rig& rig) {
  const LlamaHyperparameters& m = rig.shape();
  const int64_t widest =
      std::max<int64_t>({m.hidden, m.ffn_hidden, int64_t{m.q_heads} * m.head_dim});
  TS_ASSIGN_OR_RETURN(const DeviceBuffer in, rig.ops().Allocate(8 * widest * kFloat));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer out, rig.ops().Allocate(8 * widest * kFloat));
  for (const DType dtype :
       {DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kF16, DType::kF32}) {
    for (const Shape& shape : ProductShapes(m)) {
      TS_ASSIGN_OR_RETURN(const std::vector<Weight> weights, ColdWeights(rig, dtype, shape));
      const auto bytes = static_cast<double>(*TensorBytes(dtype, shape.rows, shape.cols));
      for (const int64_t rows : {1, 8}) {
        Measure(rig,
                {.name = absl::StrCat("product ", std::string(DTypeName(dtype)), " ", shape.name,
                                      ", rows ", rows),
                 .work = bytes,
                 .ceiling = rig.ceilings.device_copy},
                [&](int i) {
                  rig.ops().MatMul(in.Matrix<float>(rows, shape.cols), weights[i % weights.size()],
                                   out.Matrix<float>(rows, shape.rows));
                });
      }
    }
  }
  return absl::OkStatus();
}

// One layer's rows of the base, on the device: segments of one page, a list for each KV head.
struct DeviceRows {
  DeviceBuffer memory;
  std::vector<std::vector<RowSegment>> segments;
  std::vector<std::span<const RowSegment>> spans;
};

absl::StatusOr<DeviceRows> LoadRows(Rig& rig, int64_t tokens) {
  const SealedPages base = rig.BasePages();
  const int64_t heads = rig.shape().kv_heads, pages = tokens / kPageTokens;
  const int64_t page_values = int64_t{kPageTokens} * 2 * rig.shape().head_dim;
  DeviceRows rows;
  TS_ASSIGN_OR_RETURN(rows.memory, rig.ops().Allocate(heads * pages * page_values *
                                                      static_cast<int64_t>(sizeof(BFloat16))));
  rows.segments.resize(heads);
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t page = 0; page < pages; ++page) {
      BFloat16* to = rows.memory.As<BFloat16>() + (head * pages + page) * page_values;
      const BFloat16* from = base.pool->Rows(1, static_cast<int32_t>(head), base.pages[page]);
      rig.ops().Upload(std::as_bytes(std::span(from, page_values)), to);
      rows.segments[head].push_back({to, kPageTokens});
    }
  }
  rows.spans.assign(rows.segments.begin(), rows.segments.end());
  return rows;
}

absl::Status FullAttention(Rig& rig) {
  const LlamaHyperparameters& m = rig.shape();
  const int64_t q_cols = int64_t{m.q_heads} * m.head_dim, chunk = rig.plan.chunk_tokens;
  TS_ASSIGN_OR_RETURN(const DeviceRows rows, LoadRows(rig, rig.plan.base_tokens));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer q, rig.ops().Allocate(chunk * q_cols * kFloat));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer out, rig.ops().Allocate(chunk * q_cols * kFloat));
  const double row = 2.0 * m.kv_heads * m.head_dim * sizeof(BFloat16);
  const auto attend = [&](int64_t queries, Mask mask) {
    rig.ops().Attend({.q = q.Matrix<float>(queries, q_cols),
                      .segments = rows.spans,
                      .head_dim = m.head_dim,
                      .mask = mask,
                      .out = out.Matrix<float>(queries, q_cols),
                      .lse = {}});
  };
  const auto tokens = static_cast<double>(rig.plan.base_tokens);
  Measure(rig,
          {.name = absl::StrCat("decode attention, ", rig.plan.base_tokens, " tokens"),
           .work = tokens * row,
           .ceiling = rig.ceilings.device_copy},
          [&](int) { attend(1, Mask::kNone); });
  const double seen = tokens - (static_cast<double>(chunk) - 1) / 2;
  Measure(rig,
          {.name = absl::StrCat("prefill attention, ", chunk, " queries, ", rig.plan.base_tokens,
                                " tokens"),
           .work = 4.0 * static_cast<double>(chunk) * seen * static_cast<double>(q_cols),
           .ceiling = rig.ceilings.gemm,
           .is_flops = true},
          [&](int) { attend(chunk, Mask::kCausal); });
  return absl::OkStatus();
}

absl::Status QuantizedAttention(Rig& rig, int32_t bits) {
  const LlamaHyperparameters& m = rig.shape();
  const int64_t heads = m.kv_heads, pages = rig.plan.base_tokens / kPageTokens;
  const int64_t q_cols = int64_t{m.q_heads} * m.head_dim;
  const QuantizedPageShape shape = {.bits = bits, .head_dim = m.head_dim};
  TS_ASSIGN_OR_RETURN(const DeviceBuffer memory,
                      rig.ops().Allocate(heads * pages * shape.PageBytes(), MemoryKind::kCodes));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer q, rig.ops().Allocate(q_cols * kFloat));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer out, rig.ops().Allocate(q_cols * kFloat));
  TS_ASSIGN_OR_RETURN(const DeviceRows rows, LoadRows(rig, kPageTokens));
  std::vector<std::vector<const std::byte*>> lists(heads);
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t page = 0; page < pages; ++page) {
      std::byte* to = memory.data() + (head * pages + page) * shape.PageBytes();
      rig.ops().QuantizePage(rows.segments[head][0].rows, shape, to);
      lists[head].push_back(to);
    }
  }
  const std::vector<std::span<const std::byte* const>> spans(lists.begin(), lists.end());
  Measure(rig,
          {.name = absl::StrCat("quantized attention, ", bits, " bits, ", rig.plan.base_tokens,
                                " tokens"),
           .work = static_cast<double>(heads * pages * shape.PageBytes()),
           .ceiling = rig.ceilings.device_copy},
          [&](int) {
            rig.ops().AttendQuantized({.q = q.Matrix<float>(1, q_cols),
                                       .shape = shape,
                                       .pages = spans,
                                       .residual = rows.spans,
                                       .out = out.Matrix<float>(1, q_cols)});
          });
  return absl::OkStatus();
}

// Seconds of one layer's selection and gather of `params.top_k` rows, from the sketch.
absl::StatusOr<double> SelectionSeconds(Rig& rig, const SelectParams& params,
                                        std::span<const float> q) {
  const auto fetcher =
      MakeDeviceFetcher(&rig.ops(), rig.model->pool.shape(), params, {}, IndexPlace::kSketch, 0);
  TS_RETURN_IF_ERROR(fetcher->Extend(rig.BasePages()));
  absl::Status failed;
  const double seconds = SecondsOf(rig, [&](int i) {
    const int32_t layer = 1 + i % (rig.shape().layers - 1);
    absl::Status posted = fetcher->Post(layer, rig.BasePages(), q);
    if (posted.ok()) posted = fetcher->Take(layer).status();
    if (!posted.ok()) failed = posted;
  });
  TS_RETURN_IF_ERROR(failed);
  TS_RETURN_IF_ERROR(fetcher->Settle());
  return seconds;
}

// With one row, then with a budget's: what the second takes more is its rows'.
absl::Status Selection(Rig& rig, const Budget& budget, std::span<const float> q) {
  const LlamaHyperparameters& m = rig.shape();
  SelectParams params = rig.PolicyOf(budget, Path::kSketch).select;
  const SelectParams whole = params;
  params.top_k = 1;
  TS_ASSIGN_OR_RETURN(const double alone, SelectionSeconds(rig, params, q));
  TS_ASSIGN_OR_RETURN(const double with_rows, SelectionSeconds(rig, whole, q));
  constexpr double kIndexValueBytes = 0.5625;
  AddRow(rig,
         {.name = absl::StrCat("selection from the sketch, ", budget.name, ", ", whole.channels,
                               " channels"),
          .work = static_cast<double>(rig.plan.base_tokens) * m.kv_heads * whole.channels *
                  kIndexValueBytes,
          .ceiling = rig.ceilings.device_copy},
         alone);
  const std::string gather =
      absl::StrCat("row gather, ", budget.name, ", ", whole.top_k, " rows a KV head");
  if (with_rows <= alone) {
    rig.Skip(absl::StrCat("kernel ", gather), "within the noise of the selection before it");
    return absl::OkStatus();
  }
  AddRow(rig,
         {.name = gather,
          .work = whole.top_k * 2.0 * m.kv_heads * m.head_dim * sizeof(BFloat16),
          .ceiling = rig.ceilings.pinned_to_device},
         with_rows - alone);
  return absl::OkStatus();
}

absl::Status Selections(Rig& rig) {
  if (rig.ops().device_select() == nullptr) {
    rig.Skip("kernels of selection and gather", "this backend has no selection kernels");
    return absl::OkStatus();
  }
  const std::vector<float> ones(int64_t{rig.shape().q_heads} * rig.shape().head_dim, 1.0f);
  TS_ASSIGN_OR_RETURN(const DeviceBuffer q,
                      rig.ops().Allocate(static_cast<int64_t>(ones.size()) * kFloat));
  rig.ops().Upload(std::as_bytes(std::span(ones)), q.data());
  for (const Budget& budget : {rig.plan.longbench, rig.plan.ruler, rig.plan.standard}) {
    TS_RETURN_IF_ERROR(Selection(rig, budget, {q.As<float>(), ones.size()}));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureKernels(Rig& rig) {
  TS_RETURN_IF_ERROR(FullAttention(rig));
  TS_RETURN_IF_ERROR(Selections(rig));
  for (const int32_t bits : {1, 2, 4, 8}) TS_RETURN_IF_ERROR(QuantizedAttention(rig, bits));
  if (rig.TimeFor("kernels of products", rig.options.geometry == "tiny" ? 0 : 40)) {
    TS_RETURN_IF_ERROR(Products(rig));
  }
  return absl::OkStatus();
}

}  // namespace tailor::bench
