// The kernels, by what they compute; each launch function enqueues on a stream and returns. All
// pointers are device memory or host memory mapped for the device. A launch that fails shows in
// cudaGetLastError, which the backend asks for after every op.
#pragma once

#include <cstdint>

#include "common/cuda/stream_ref.h"
#include "worker/ops/cuda/index_page.h"
#include "worker/ops/cuda/page_bits.h"
#include "worker/ops/cuda/split_plan.h"
#include "worker/ops/logit_math.h"

namespace tailor::cuda {

// A matrix as a kernel sees it.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;  // elements
  int32_t rows = 0, cols = 0;
};

// Numbered apart from DType, so that nvcc need not see the model file's headers.
enum class WeightType : int32_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ4_K, kQ6_K };

// See weight_layout.h.
struct WeightRef {
  const void* codes = nullptr;
  const void* scales = nullptr;
  WeightType type = WeightType::kF32;
  int32_t rows = 0, cols = 0;
  int32_t pieces = 0;
  int32_t scale_row_bytes = 0;  // of one row's scales
};

// --- linear.cu: up to kSkinnyRows rows, bound by reading the weights ---
inline constexpr int32_t kSkinnyRows = 16;
inline constexpr int32_t kMaxJobs = 3;
enum class Epilogue : int32_t { kStore, kAdd };
struct LinearJob {
  WeightRef w;
  Rows<float> out;
};
// out = x w^T, or out += x w^T, for each job. x: 16-byte aligned rows; cols readable up to a
// multiple of 32, zeros beyond x.cols (see PackRows).
void LaunchLinear(Rows<const float> x, const LinearJob* jobs, int32_t count, Epilogue epilogue,
                  CudaStreamRef stream);
// out = silu(x gate^T) * (x up^T)
void LaunchGated(Rows<const float> x, const WeightRef& gate, const WeightRef& up, Rows<float> out,
                 CudaStreamRef stream);
// out [rows][out.stride] = x, zeros from x.cols to out.cols.
void LaunchPackRows(Rows<const float> x, Rows<float> out, CudaStreamRef stream);

// --- linear_mma.cu: those of BF16, Q8_0, Q4_0 and Q4_1, which the two above pass on to it ---
void LaunchLinearMma(Rows<const float> x, const LinearJob* jobs, int32_t count, Epilogue epilogue,
                     CudaStreamRef stream);
void LaunchGatedMma(Rows<const float> x, const WeightRef& gate, const WeightRef& up,
                    Rows<float> out, CudaStreamRef stream);

// --- gemm.cu: many rows, on tensor cores; x and w rounded to bf16, sums in fp32 ---
void LaunchGemm(Rows<const float> x, const WeightRef& w, Epilogue epilogue, Rows<float> out,
                CudaStreamRef stream);

// --- round_bf16.cu: what a library of bf16 products reads, rounded as gemm.cu does ---
// out [x.rows][x.cols]. x: as LaunchLinear wants it.
void LaunchRoundRows(Rows<const float> x, uint16_t* out, CudaStreamRef stream);
// out [w.rows][cols in whole pieces], of any format but F32.
void LaunchExpandWeight(const WeightRef& w, uint16_t* out, CudaStreamRef stream);

// --- pointwise.cu ---
void LaunchEmbed(const int32_t* tokens, const WeightRef& embedding, Rows<float> x,
                 CudaStreamRef stream);
void LaunchRmsNorm(Rows<const float> x, const WeightRef& gain, float eps, Rows<float> out,
                   CudaStreamRef stream);
// x += bias, in every row
void LaunchAddBias(const WeightRef& bias, Rows<float> x, CudaStreamRef stream);
// out = silu(gate) * out
void LaunchSiluMultiply(Rows<const float> gate, Rows<float> out, CudaStreamRef stream);
struct RopeRef {
  const float* cos_sin = nullptr;  // [positions][head_dim / 2][2]
  int32_t head_dim = 0;
  bool halves = true;
};
void LaunchRope(const int32_t* positions, const RopeRef& table, Rows<float> x,
                CudaStreamRef stream);
// rows: [tokens * kv_heads] pointers, which may lead to mapped memory of the host.
void LaunchWriteRows(Rows<const float> k, Rows<const float> v, uint16_t* const* rows,
                     int32_t head_dim, CudaStreamRef stream);
// Rope of q and k, then k and v to two rows each.
void LaunchRopeRows(const int32_t* positions, const RopeRef& table, Rows<float> q, Rows<float> k,
                    Rows<const float> v, uint16_t* const* rows, uint16_t* const* more_rows,
                    CudaStreamRef stream);

// --- copy.cu ---
inline constexpr int64_t kCopyTileBytes = 16 << 10;
// CopyPiece, and how many tiles of its launch are of pieces before it.
struct CopyRef {
  const void* from = nullptr;
  void* to = nullptr;
  int64_t bytes = 0;
  int32_t first_tile = 0;
};
void LaunchCopy(const CopyRef* pieces, int32_t count, int32_t tiles, int32_t blocks,
                CudaStreamRef stream);

// --- doorbell.cu ---
// query [count] = q, then *rung = number, which whoever sees it finds the query after. Both in
// mapped memory of the host.
void LaunchRing(const float* q, int32_t count, float* query, uint64_t* rung, uint64_t number,
                CudaStreamRef stream);
// Ends once *answered >= number.
void LaunchAwait(const uint64_t* answered, uint64_t number, CudaStreamRef stream);

// --- attention ---
// One call's keys: segments of every KV head, starts[head] .. starts[head + 1].
struct KeyTable {
  const SegmentRef* segments = nullptr;
  const int32_t* starts = nullptr;  // [kv_heads + 1]
  int32_t kv_heads = 0, head_dim = 0;
  int32_t tokens = 0;  // of each head
};
// Query i of n sees tokens [0, tokens - (n - 1 - i)) when causal, else all.
struct QueryTable {
  Rows<const float> q;  // [queries][q_heads * head_dim]
  int32_t q_heads = 0;
  bool causal = false;
};
// Softmax of each split: out [queries][q_heads][splits][head_dim], state
// [queries][q_heads][splits].
struct Partials {
  float* out = nullptr;
  PartialSoftmax* state = nullptr;
  int32_t splits = 0;
  // The last mean_splits are of means, which stand for e^mean_log_weight tokens each.
  int32_t mean_splits = 0;
  float mean_log_weight = 0;

  TS_HD float Max(const PartialSoftmax& of, int32_t split) const {
    return split < splits - mean_splits ? of.max : of.max + mean_log_weight;
  }
};
// attend_rows.cu. Fills splits [first_split, first_split + plan.splits) of `partials`.
void LaunchAttendRows(const QueryTable& q, const KeyTable& keys, const SplitPlan& plan,
                      int32_t first_split, const Partials& partials, CudaStreamRef stream);
// out, and lse [queries][q_heads] unless null, from all splits.
void LaunchMergeSplits(const Partials& partials, int32_t head_dim, int32_t q_heads, Rows<float> out,
                       Rows<float> lse, CudaStreamRef stream);
// attend_prefill.cu: q and probabilities rounded to bf16, scores and sums in fp32.
void LaunchAttendPrefill(const QueryTable& q, const KeyTable& keys, Rows<float> out,
                         Rows<float> lse, CudaStreamRef stream);

// --- attend_pages.cu ---
void LaunchQuantizePage(const uint16_t* rows, const PageBits& shape, std::byte* page,
                        CudaStreamRef stream);
// pages: [kv_heads][count]. One query; fills splits [0, plan.splits).
void LaunchAttendPages(const QueryTable& q, const std::byte* const* pages, int32_t count,
                       int32_t kv_heads, const PageBits& shape, const SplitPlan& plan,
                       const Partials& partials, CudaStreamRef stream);

// --- index_scores.cu: kvstore/select's scores, bit for bit ---
struct SelectTable {
  const IndexPage* pages = nullptr;
  int32_t page_count = 0, kv_heads = 0, head_dim = 0;
  int32_t index_slice = 0, row_slice = 0;
  IndexStrides strides;
  int32_t queries = 0;  // that score, of each KV head: 1, their mean, or the whole group
  ScoreRule rule = ScoreRule::kHeadsVote;
  int32_t channels = 0, padded = 0;  // critical ones, and those in whole lanes
  RowCache cache = {};
};
// What the kernels of one selection hand on.
struct SelectWork {
  float* queries = nullptr;     // [kv_heads][queries][head_dim]
  float* critical = nullptr;    // [kv_heads][queries][padded]: of the critical channels
  int32_t* channels = nullptr;  // [kv_heads][channels], ascending
  uint32_t* largest = nullptr;  // [kv_heads][queries]: ScoreKey of the largest score
  float* raw = nullptr;         // [kv_heads][queries][tokens]: scores, then their exponents
  float* page_sums = nullptr;   // [kv_heads][queries][pages][lanes]
  float* factors = nullptr;     // [kv_heads][queries]: 1 / the exponents' sum
  float* scores = nullptr;      // [kv_heads][tokens]
};
// Fills scores (with kMeanQuery they are raw) and what RescoreChosen needs.
void LaunchIndexScores(const SelectTable& table, Rows<const float> q, const float* kmax,
                       const SelectWork& work, CudaStreamRef stream);
// scores [kv_heads][count] of `chosen` from their exact keys.
void LaunchRescore(const SelectTable& table, const SelectWork& work, const int32_t* chosen,
                   int32_t count, float* scores, CudaStreamRef stream);

// --- select.cu ---
// tokens [kv_heads][k]: positions of the k largest of scores [first, last) of each head, ascending;
// with names [kv_heads][stride] the names of those positions.
void LaunchTopK(const float* scores, int32_t stride, int32_t first, int32_t last, int32_t kv_heads,
                int32_t k, const int32_t* names, int32_t* tokens, CudaStreamRef stream);
// sources [kv_heads][k]: where table.cache has the rows of tokens, or will have them (row_cache.h).
void LaunchPlanRows(const SelectTable& table, const int32_t* tokens, int32_t k, int32_t* sources,
                    GatherReport* report, CudaStreamRef stream);
// rows [kv_heads][k][2][head_dim]: from the cache, or from the store and held to their checks.
// sources: of LaunchPlanRows, null without a cache.
void LaunchGather(const SelectTable& table, const int32_t* tokens, const int32_t* sources,
                  int32_t k, uint16_t* rows, GatherReport* report, CudaStreamRef stream);
void LaunchCopyIndex(const IndexPage* pages, const IndexStrides& strides, int32_t count,
                     int32_t slices, int32_t head_dim, std::byte* const* sketches,
                     CudaStreamRef stream);

// --- sample.cu ---
// What is asked of one row of logits.
struct LogitRow {
  const LogitAdjustment* adjustments = nullptr;
  int32_t count = 0;
  float temperature = 1;
  bool wanted = false, mass = false;
};
// Memory of one reduction.
struct LogitWork {
  int32_t count = 0;  // candidates of each row, at most the vocabulary
  int32_t run = 0;    // of sorted keys: count or the next power of two, at most kLogitPiece
  uint64_t *best = nullptr, *merged = nullptr;  // [rows][pieces][run]
  LogitPieceSums* sums = nullptr;               // [rows][pieces]
  LogitCandidate* candidates = nullptr;         // [rows][count]
};
inline int32_t LogitPieces(int32_t vocab) { return (vocab + kLogitPiece - 1) / kLogitPiece; }
// Fills sums and candidates of the wanted rows.
void LaunchReduceLogits(Rows<const float> logits, const LogitRow* rows, const LogitWork& work,
                        CudaStreamRef stream);

}  // namespace tailor::cuda
