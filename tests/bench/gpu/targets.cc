#include "tests/bench/gpu/targets.h"

#include <optional>
#include <string>

namespace tailor::bench {
namespace {

using nlohmann::json;

constexpr int64_t k128 = 131072;

const json* FindDecode(const json& results, const char* path, const char* budget, int64_t context,
                       int batch) {
  for (const json& row : results.at("decode")) {
    if (row.at("path") == path && row.at("budget") == budget && row.at("context") == context &&
        row.at("batch") == batch && row.at("pages_repeated") == 1) {
      return &row;
    }
  }
  return nullptr;
}

std::optional<double> Decode(const json& results, const char* path, const char* budget,
                             int64_t context, int batch, const char* field) {
  const json* row = FindDecode(results, path, budget, context, batch);
  if (row == nullptr) return std::nullopt;
  return row->at(field).get<double>();
}

const json* FindPrefill(const json& results) {
  for (const json& row : results.at("prefill")) {
    if (row.at("tokens") == k128 && row.at("whole").get<bool>()) return &row;
  }
  return nullptr;
}

std::optional<double> Resume(const json& results, const char* path) {
  for (const json& row : results.at("resume")) {
    if (row.at("path") == path && row.at("tokens") == k128 &&
        !row.at("pages_verified").get<bool>()) {
      return row.at("ms_to_next_token").get<double>();
    }
  }
  return std::nullopt;
}

std::optional<double> SessionGb(const json& results, const char* path) {
  if (results.value("base_tokens", int64_t{0}) != k128) return std::nullopt;
  return results.at("session_bytes").at(path).get<double>() / 1e9;
}

enum class Wants { kAtMost, kAtLeast };

json Line(const char* id, const char* what, Wants wants, double target,
          std::optional<double> measured) {
  const char* sign = wants == Wants::kAtMost ? "<=" : ">=";
  json line = {{"id", id}, {"what", what}, {"wants", sign}, {"target", target}};
  if (!measured.has_value()) {
    line["verdict"] = "not measured";
    return line;
  }
  line["measured"] = *measured;
  const bool met = wants == Wants::kAtMost ? *measured <= target : *measured >= target;
  line["verdict"] = met ? "met" : "missed";
  return line;
}

json DecodeLines(const json& r) {
  const auto full = Decode(r, "full", "longbench", k128, 1, "ms");
  const auto sketch = Decode(r, "sketch", "longbench", k128, 1, "ms");
  const auto at_2k = Decode(r, "sketch", "longbench", 2048, 1, "ms");
  std::optional<double> flat, of_full;
  if (sketch && at_2k) flat = *sketch / *at_2k;
  if (sketch && full) of_full = *sketch / *full;
  return {
      Line("D1", "full cache, 128k, batch 1: ms a token (H200)", Wants::kAtMost, 8.6, full),
      Line("D1", "the same: time / floor", Wants::kAtMost, 1.15,
           Decode(r, "full", "longbench", k128, 1, "ms_over_floor")),
      Line("D2", "sketch, 128k, batch 1, 64 + 128: ms a token (H200)", Wants::kAtMost, 5.0, sketch),
      Line("D2", "the same: time / floor", Wants::kAtMost, 1.31,
           Decode(r, "sketch", "longbench", k128, 1, "ms_over_floor")),
      Line("D2", "the same: time / our full cache", Wants::kAtMost, 0.60, of_full),
      Line("D6", "sketch, 128k, batch 8, 64 + 128: ms a step (H200)", Wants::kAtMost, 8.0,
           Decode(r, "sketch", "longbench", k128, 8, "ms")),
      Line("D6", "the same: tokens/s", Wants::kAtLeast, 1000,
           Decode(r, "sketch", "longbench", k128, 8, "tokens_per_second")),
      Line("D6", "the same: time / floor", Wants::kAtMost, 1.30,
           Decode(r, "sketch", "longbench", k128, 8, "ms_over_floor")),
      Line("D9", "sketch, batch 1: time at 128k / time at 2k", Wants::kAtMost, 1.15, flat)};
}

}  // namespace

json TargetLines(const json& r) {
  json lines = DecodeLines(r);
  const json* prefill = FindPrefill(r);
  std::optional<double> seconds, share, peak_gb;
  if (prefill != nullptr) {
    seconds = prefill->at("seconds").get<double>();
    share = prefill->at("share_of_gemm").get<double>();
    const double total = prefill->at("peak_device_bytes").at("total").get<double>();
    if (total > 0) peak_gb = total / 1e9;
  }
  const json rest = {
      Line("M1", "device memory of one more 128k session, sketch: GB", Wants::kAtMost, 1.6,
           SessionGb(r, "sketch")),
      Line("M2", "the same, scored by the CPU: GB", Wants::kAtMost, 0.25, SessionGb(r, "store")),
      Line("M3", "peak device memory of a 128k prefill: GB", Wants::kAtMost, 20, peak_gb),
      Line("F1", "prefill of 128k: s (H200)", Wants::kAtMost, 11.5, seconds),
      Line("F1", "the same: share of the GEMM rate", Wants::kAtLeast, 0.70, share),
      Line("F3", "dropped 128k session to its next token, sketch: ms, pages not verified",
           Wants::kAtMost, 40, Resume(r, "sketch")),
      Line("F3", "the same, scored by the CPU", Wants::kAtMost, 10, Resume(r, "store"))};
  lines.insert(lines.end(), rest.begin(), rest.end());
  return lines;
}

}  // namespace tailor::bench
