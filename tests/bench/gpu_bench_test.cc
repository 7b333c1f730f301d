// The benchmark's formulas against the published tables of its anchors, and the verdicts on
// targets.
#include <gtest/gtest.h>

#include "tests/bench/gpu/step_bytes.h"
#include "tests/bench/gpu/targets.h"

namespace tailor::bench {
namespace {

using nlohmann::json;

LlamaHyperparameters Llama8B() {
  return {.layers = 32,
          .hidden = 4096,
          .q_heads = 32,
          .kv_heads = 8,
          .head_dim = 128,
          .ffn_hidden = 14336,
          .vocab = 128256,
          .rope_scaling = {}};
}

// Layer 0 at 1 bit, as the anchors count it.
LayerPolicy Published(int32_t channels, int32_t top_k) {
  LayerPolicy policy;
  policy.quantized_layers = {0};
  policy.bits = 1;
  policy.select.channels = channels;
  policy.select.top_k = top_k;
  return policy;
}

// 32 layers, head, norms; bf16.
constexpr double kWeightBytes = 2.0 * (6979321856.0 + 525336576.0 + 65 * 4096);
// An H200 as the anchors take it.
constexpr Ceilings kH200 = {
    .device_copy = 4.3e12, .pinned_to_device = 55e9, .host_read = 250e9, .gemm = 790e12};

struct AnchorRow {
  Path path;
  int64_t context;
  int32_t batch, channels, top_k;
  double device_gb, pcie_mb, floor_ms;
};

TEST(StepBytesTest, TheAnchorsTablesAreReproduced) {
  const AnchorRow rows[] = {
      {Path::kFull, 32768, 1, 8, 128, 19.30, 0, 4.49},
      {Path::kFull, 131072, 1, 8, 128, 32.19, 0, 7.49},
      {Path::kFull, 131072, 8, 8, 128, 152.45, 0, 35.45},
      {Path::kSketch, 32768, 1, 8, 128, 15.10, 16.3, 3.81},
      {Path::kSketch, 131072, 1, 8, 128, 15.25, 16.3, 3.84},
      {Path::kSketch, 131072, 1, 128, 128, 17.44, 16.3, 4.35},
      {Path::kSketch, 131072, 8, 8, 128, 16.91, 130.0, 6.30},
      {Path::kSketch, 1048576, 1, 8, 128, 16.62, 16.3, 4.16},
      {Path::kSketch, 131072, 1, 12, 896, 15.52, 113.8, 5.68},
      {Path::kSketch, 131072, 8, 12, 896, 19.05, 910.2, 20.98},
  };
  for (const AnchorRow& row : rows) {
    SCOPED_TRACE(testing::Message() << ToString(row.path) << " " << row.context << " x "
                                    << row.batch << ", " << row.channels << " channels");
    const StepBytes bytes = StepBytesOf(Llama8B(), Published(row.channels, row.top_k), row.path,
                                        row.context, row.batch, kWeightBytes);
    // The tables' last digits.
    EXPECT_NEAR(bytes.device / 1e9, row.device_gb, 0.0051);
    EXPECT_NEAR((bytes.pcie_rows + bytes.pcie_channels) / 1e6, row.pcie_mb, 0.051);
    EXPECT_NEAR(SerialFloor(bytes, kH200) * 1e3, row.floor_ms, 0.0051);
  }
}

TEST(StepBytesTest, AnEmptyContextReadsTheWeightsAlone) {
  const StepBytes bytes =
      StepBytesOf(Llama8B(), Published(8, 128), Path::kEmpty, 131072, 8, kWeightBytes);
  EXPECT_EQ(bytes.device, kWeightBytes);
  EXPECT_EQ(bytes.pcie_rows + bytes.pcie_channels + bytes.host, 0);
}

// Whoever scores reads the same bytes: of device memory, over PCIe, or of the host's.
TEST(StepBytesTest, TheScoredBytesLieWhereTheSelectorReadsThem) {
  const auto of = [](Path path) {
    return StepBytesOf(Llama8B(), Published(8, 128), path, 131072, 1, kWeightBytes);
  };
  const double scored = 131072.0 * 8 * 8 * 0.5625 * 31;
  EXPECT_DOUBLE_EQ(of(Path::kSketch).device - of(Path::kStore).device, scored);
  EXPECT_EQ(of(Path::kDevice).pcie_channels, scored);
  EXPECT_EQ(of(Path::kStore).host_scoring, scored);
  EXPECT_EQ(of(Path::kInline).host, of(Path::kDevice).host);
}

TEST(StepBytesTest, PrefillTakesTheAnchorsFlops) {
  EXPECT_EQ(LinearWeights(Llama8B()), 6979321856.0);
  EXPECT_NEAR(PrefillFlops(Llama8B(), 131072), 6.333e15, 0.0006e15);
  EXPECT_NEAR(PrefillFlops(Llama8B(), 32768), 7.389e14, 0.0006e14);
}

json EmptyResults() {
  return {{"decode", json::array()}, {"prefill", json::array()}, {"resume", json::array()}};
}

json DecodeRow(const char* path, int64_t context, double ms) {
  return {{"path", path},
          {"budget", "longbench"},
          {"context", context},
          {"batch", 1},
          {"ms", ms},
          {"ms_over_floor", ms / 4},
          {"tokens_per_second", 1000 / ms},
          {"pages_repeated", 1}};
}

std::string Verdict(const json& lines, const std::string& id, const std::string& part) {
  for (const json& line : lines) {
    if (line.at("id") == id && line.at("what").get<std::string>().find(part) != std::string::npos) {
      return line.at("verdict");
    }
  }
  return "no such line";
}

TEST(TargetsTest, EveryTargetHasALineEvenWhereNothingWasMeasured) {
  const json lines = TargetLines(EmptyResults());
  for (const char* id : {"D1", "D2", "D6", "D9", "M1", "M2", "M3", "F1", "F3"}) {
    EXPECT_EQ(Verdict(lines, id, ""), "not measured") << id;
  }
}

TEST(TargetsTest, VerdictsFollowTheNumbers) {
  json results = EmptyResults();
  results["decode"] = {DecodeRow("full", 131072, 8.6), DecodeRow("sketch", 131072, 5.1),
                       DecodeRow("sketch", 2048, 4.6)};
  results["prefill"] = {{{"tokens", 131072},
                         {"whole", true},
                         {"seconds", 12},
                         {"share_of_gemm", 0.7},
                         {"peak_device_bytes", {{"total", 20e9}}}}};
  results["resume"] = {{{"path", "sketch"},
                        {"tokens", 131072},
                        {"pages_verified", true},
                        {"ms_to_next_token", 4000}},
                       {{"path", "sketch"},
                        {"tokens", 131072},
                        {"pages_verified", false},
                        {"ms_to_next_token", 39}}};
  results["base_tokens"] = 131072;
  results["session_bytes"] = {{"sketch", 2.5e9}, {"store", 0.2e9}};
  const json lines = TargetLines(results);
  EXPECT_EQ(Verdict(lines, "D1", "ms a token"), "met") << "the limit itself";
  EXPECT_EQ(Verdict(lines, "D1", "floor"), "missed");
  EXPECT_EQ(Verdict(lines, "D2", "ms a token"), "missed");
  EXPECT_EQ(Verdict(lines, "D2", "our full cache"), "met");
  EXPECT_EQ(Verdict(lines, "D6", "tokens/s"), "not measured");
  EXPECT_EQ(Verdict(lines, "D9", ""), "met");
  EXPECT_EQ(Verdict(lines, "M1", ""), "missed");
  EXPECT_EQ(Verdict(lines, "M2", ""), "met");
  EXPECT_EQ(Verdict(lines, "M3", ""), "met");
  EXPECT_EQ(Verdict(lines, "F1", "s (H200)"), "missed");
  EXPECT_EQ(Verdict(lines, "F1", "GEMM"), "met");
  EXPECT_EQ(Verdict(lines, "F3", "sketch"), "met") << "without the verification";
}

TEST(TargetsTest, APrefillThatBrokeOffDecidesNothing) {
  json results = EmptyResults();
  results["prefill"] = {{{"tokens", 131072}, {"whole", false}, {"seconds", 1}}};
  EXPECT_EQ(Verdict(TargetLines(results), "F1", ""), "not measured");
}

}  // namespace
}  // namespace tailor::bench
