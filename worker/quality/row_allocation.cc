#include "worker/quality/row_allocation.h"

#include <algorithm>

#include "common/status.h"

namespace tailor {
namespace {

struct Segment {
  size_t layer;
  int32_t rows;
  double slope;  // recall a row
};

// The upper concave hull: slopes fall from one segment to the next.
std::vector<Segment> Hull(const RecallCurve& curve, size_t layer) {
  std::vector<Segment> segments;
  for (size_t at = 0; at + 1 < curve.size();) {
    size_t best = at + 1;
    double steepest = 0;
    for (size_t to = at + 1; to < curve.size(); ++to) {
      const double slope =
          (curve[to].second - curve[at].second) / (curve[to].first - curve[at].first);
      if (to == at + 1 || slope > steepest) {
        best = to;
        steepest = slope;
      }
    }
    segments.push_back({layer, curve[best].first - curve[at].first, steepest});
    at = best;
  }
  return segments;
}

}  // namespace

std::optional<std::vector<int32_t>> AllocateRows(std::span<const RecallCurve> curves,
                                                 int64_t total_rows) {
  std::vector<int32_t> rows;
  std::vector<Segment> segments;
  int64_t left = total_rows;
  for (const RecallCurve& curve : curves) {
    TS_CHECK(!curve.empty());
    rows.push_back(curve.front().first);
    left -= curve.front().first;
    const auto hull = Hull(curve, rows.size() - 1);
    segments.insert(segments.end(), hull.begin(), hull.end());
  }
  if (left < 0) return std::nullopt;
  // Stable: within a layer slopes fall, so its segments stay in order.
  std::stable_sort(segments.begin(), segments.end(),
                   [](const Segment& a, const Segment& b) { return a.slope > b.slope; });
  for (const Segment& segment : segments) {
    const auto taken = static_cast<int32_t>(std::min<int64_t>(left, segment.rows));
    rows[segment.layer] += taken;
    left -= taken;
  }
  if (left > 0) return std::nullopt;
  return rows;
}

}  // namespace tailor
