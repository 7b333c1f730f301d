#include "worker/ops/cuda/cuda_select.h"

#include "common/status.h"
#include "common/types.h"

namespace tailor::cuda {

void CudaSelect::Select(const DeviceSelection& s) {
  TS_CHECK(s.bits == 0 || s.bits == 2 || s.bits == 4);
  TS_CHECK(s.head_dim % kGroup == 0 && s.head_dim <= 128 && s.channels <= s.head_dim);
  const int32_t count = s.Count();
  if (count == 0) return;
  context_.Bind();
  Scratch& scratch = context_.scratch();
  scratch.Begin();
  auto* scores = scratch.Take<float>(int64_t{s.kv_heads} * s.pages * kPageTokens, context_);
  auto* q_mean = scratch.Take<float>(int64_t{s.kv_heads} * s.head_dim, context_);
  auto* channels = scratch.Take<int32_t>(int64_t{s.kv_heads} * s.channels, context_);
  SelectTable table = {
      .kv_heads = s.kv_heads, .head_dim = s.head_dim, .pages = s.pages, .bits = s.bits};
  table.keys = context_.Put(s.keys);
  if (s.bits == 0) table.key_scales = context_.Put(s.key_scales);
  table.row_pages = reinterpret_cast<const uint16_t* const*>(context_.Put(s.row_pages));
  LaunchCriticalChannels(ToRows(s.q), s.kmax, s.kv_heads, s.head_dim, s.channels, q_mean, channels,
                         context_.stream());
  LaunchScores(table, q_mean, channels, s.channels, scores, context_.stream());
  LaunchTopK(scores, s.pages * kPageTokens, s.sink_tokens, s.pages * kPageTokens, s.kv_heads, count,
             s.tokens, context_.stream());
  LaunchGather(table, s.tokens, count, reinterpret_cast<uint16_t*>(s.rows), context_.stream());
  CheckCuda(cudaGetLastError(), "Select");
}

void CudaSelect::SketchPage(const BFloat16* rows, const QuantizedPageShape& shape,
                            std::byte* sketch) {
  context_.Bind();
  LaunchSketchPage(reinterpret_cast<const uint16_t*>(rows), {shape.bits, shape.head_dim}, sketch,
                   context_.stream());
  CheckCuda(cudaGetLastError(), "SketchPage");
}

}  // namespace tailor::cuda
