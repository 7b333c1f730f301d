#include "services/cli/calibrate_report.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/report/html_page.h"
#include "services/cli/report/markdown_table.h"
#include "services/cli/report/svg_plot.h"
#include "services/cli/spread_text.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr int kReportVersion = 1;
constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();
constexpr char kTitle[] = "Calibration of a cache policy";
constexpr char kScoreNote[] =
    "Dense preference: the attention mass of the last queries outside a row's largest entries, "
    "mean "
    "over heads, queries and windows. Layers above the threshold are dense: candidates for keeping "
    "all tokens as codes.";
constexpr char kTriedNote[] =
    "Every policy the search measured, in order, on the calibration windows. Fetched: rows that "
    "cross from the store to the worker for a decoded token, as many as a long context offers. "
    "Device: what one sequence of the context's length keeps in the worker. Scored: what the "
    "selection reads of host memory a token; no limit, but it decides between equals. KL against "
    "full attention, nats a token.";
constexpr char kHeldOutNote[] =
    "On windows that the search did not see; ± the standard error over windows. Recall: mean over "
    "sparse layers of the share of the exact attention mass on the tokens attended.";

const MeasuredPolicy& Chosen(const CalibrationResult& result) {
  return result.search.measured[result.search.chosen];
}
const CalibrationEvidence& Evidence(const CalibrationResult& result) {
  return *result.policy.calibration;
}

std::string KiB(int64_t bytes) {
  return absl::StrFormat("%.1f", static_cast<double>(bytes) / 1024);
}

std::string NamesOf(const std::vector<CalibrationEvidence::Text>& texts) {
  return absl::StrJoin(texts, ", ", [](std::string* out, const CalibrationEvidence::Text& text) {
    absl::StrAppend(out, text.name, " (sha256 ", text.sha256.ToHex().substr(0, 16), ")");
  });
}

std::string LimitsLine(const CalibrationResult& result) {
  const CalibrationLimits& limits = result.search.limits;
  std::vector<std::string> parts;
  if (limits.kl) parts.push_back(absl::StrCat("KL at most ", *limits.kl, " nats a token"));
  if (limits.fetched_bytes) {
    parts.push_back(absl::StrCat("fetched at most ", KiB(*limits.fetched_bytes), " KiB a token"));
  }
  if (limits.device_bytes) {
    parts.push_back(absl::StrCat("device at most ", KiB(*limits.device_bytes), " KiB a sequence"));
  }
  return absl::StrCat("Limits: ", absl::StrJoin(parts, ", "), ". ",
                      result.meets_limits
                          ? "The chosen policy keeps them on the calibration windows."
                          : "No policy that was measured keeps them; the closest "
                            "is shown, and no policy file was written.");
}

std::string SubjectLine(const CalibrationResult& result) {
  const CalibrationEvidence& e = Evidence(result);
  return absl::StrCat(
      "Model ", result.policy.model_name, " (weights ", result.policy.weights.ToHex().substr(0, 16),
      "). Texts: ", NamesOf(e.texts), "; held out: ",
      e.held_out_texts.empty() ? "the last window of each" : NamesOf(e.held_out_texts), ". ",
      e.windows, " windows of ", e.context_tokens, " context and ", e.decode_tokens,
      " decoded tokens a text. tailor ", e.tool, ", ", e.simd, ".");
}

std::string DenseLine(const CalibrationResult& result) {
  const std::string layers =
      result.dense_layers.empty() ? "none" : absl::StrJoin(result.dense_layers, ", ");
  return absl::StrCat("Dense by the rule (score above ", result.scoring.threshold, ", at most ",
                      result.scoring.max_quantized_layers,
                      " layers), largest score first: ", layers, ".");
}

// Worst of the layers' means, and their mean.
std::string Recalls(const TextSummary& summary) {
  double sum = 0, worst = 1;
  int layers = 0;
  for (const LayerQuality& layer : summary.layers) {
    if (!layer.has_recall()) continue;
    sum += layer.mean_recall();
    worst = std::min(worst, layer.mean_recall());
    ++layers;
  }
  return layers == 0 ? "-" : absl::StrFormat("%.4f, worst layer %.4f", sum / layers, worst);
}

Table HeldOutTable(const CalibrationResult& result) {
  Table table = {.header = {"policy", "KL (nats/token)", "top-1 agreement %", "perplexity ratio",
                            "recall", "fetched KiB/token", "device KiB"},
                 .rows = {}};
  const auto add = [&](const char* name, const TextSummary& s, const PolicyCost& cost) {
    table.rows.push_back({name, PlusMinus(s.kl, 1, "%.5f"), PlusMinus(s.agreement, 100, "%.2f"),
                          PlusMinus(s.perplexity_ratio, 1, "%.4f"), Recalls(s),
                          KiB(cost.fetched_bytes), KiB(cost.device_bytes)});
  };
  add("default", result.default_held_out, result.search.measured[0].cost);
  add("chosen", result.held_out, Chosen(result).cost);
  return table;
}

Table TriedTable(const CalibrationResult& result) {
  Table table = {.header = {"tried", "KL (nats/token)", "perplexity ratio", "recall",
                            "fetched KiB/token", "device KiB", "scored KiB/token", "", ""},
                 .rows = {}};
  const std::vector<size_t> front = ParetoFront(result.search.measured);
  for (size_t i = 0; i < result.search.measured.size(); ++i) {
    const MeasuredPolicy& m = result.search.measured[i];
    const bool on_front = std::find(front.begin(), front.end(), i) != front.end();
    table.rows.push_back({m.step, PlusMinus(m.quality.kl, 1, "%.5f"),
                          absl::StrFormat("%.4f", m.quality.perplexity_ratio.mean),
                          absl::StrFormat("%.4f", m.mean_recall()), KiB(m.cost.fetched_bytes),
                          KiB(m.cost.device_bytes), KiB(m.cost.scored_bytes),
                          on_front ? "front" : "", i == result.search.chosen ? "chosen" : ""});
  }
  return table;
}

Table LayerTable(const CalibrationResult& result) {
  Table table = {.header = {"layer", "dense preference", "kept as", "rows", "recall, held out"},
                 .rows = {}};
  const LayerPolicy& policy = result.policy;
  for (size_t l = 0; l < result.scores.size(); ++l) {
    const LayerQuality& quality = result.held_out.layers[l];
    const bool quantized = policy.IsQuantized(static_cast<int32_t>(l));
    const int32_t rows = policy.layer_top_k.empty() ? policy.select.top_k : policy.layer_top_k[l];
    table.rows.push_back(
        {absl::StrCat(l), absl::StrFormat("%.4f", result.scores[l]),
         quantized ? absl::StrCat(policy.bits, " bits") : "sparse",
         quantized ? "" : absl::StrCat(rows),
         quality.has_recall() ? absl::StrFormat("%.4f", quality.mean_recall()) : ""});
  }
  return table;
}

std::string ScorePlot(const CalibrationResult& result) {
  PlotSeries scores = {.name = "score", .color = 0, .points = {}};
  PlotSeries threshold = {.name = "threshold", .color = 1, .points = {}};
  for (size_t l = 0; l < result.scores.size(); ++l) {
    scores.points.emplace_back(static_cast<double>(l), result.scores[l]);
    threshold.points.emplace_back(static_cast<double>(l), result.scoring.threshold);
  }
  return LinePlot({.title = "Dense preference per layer",
                   .x_label = "layer",
                   .y_label = "dense preference",
                   .y_low = 0,
                   .y_high = 0},
                  std::vector<PlotSeries>{scores, threshold});
}

std::string RecallPlot(const CalibrationResult& result) {
  const auto line = [](const char* name, size_t color, const TextSummary& summary) {
    PlotSeries series = {.name = name, .color = color, .points = {}};
    for (size_t l = 0; l < summary.layers.size(); ++l) {
      const LayerQuality& layer = summary.layers[l];
      series.points.emplace_back(static_cast<double>(l),
                                 layer.has_recall() ? layer.mean_recall() : kNoNumber);
    }
    return series;
  };
  return LinePlot({.title = "Mass recall per layer, held out",
                   .x_label = "layer",
                   .y_label = "mass recall",
                   .y_low = 0,
                   .y_high = 1},
                  std::vector<PlotSeries>{line("default", 1, result.default_held_out),
                                          line("chosen", 0, result.held_out)});
}

// Far above the front's worst, a policy would press all others to the axis.
double PlottedKl(const CalibrationResult& result) {
  double worst = 0;
  for (const size_t i : ParetoFront(result.search.measured)) {
    worst = std::max(worst, result.search.measured[i].kl());
  }
  return 1.25 * worst;
}

std::string BytesPlot(const CalibrationResult& result) {
  const auto& measured = result.search.measured;
  const auto point = [&](size_t i) {
    return std::pair(static_cast<double>(measured[i].cost.fetched_bytes) / 1024, measured[i].kl());
  };
  PlotSeries front = {.name = "front", .color = 0, .points = {}};
  for (const size_t i : ParetoFront(measured)) front.points.push_back(point(i));
  const double limit = PlottedKl(result);
  std::vector<std::pair<double, double>> points;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (measured[i].kl() <= limit) points.push_back(point(i));
  }
  std::sort(points.begin(), points.end());
  PlotSeries tried = {.name = "tried", .color = 5, .points = {}};
  for (const auto& p : points) {
    tried.points.push_back(p);
    tried.points.emplace_back(p.first, kNoNumber);  // a gap: markers without lines
  }
  const PlotSeries chosen = {.name = "chosen", .color = 1, .points = {point(result.search.chosen)}};
  return LinePlot({.title = "Quality against fetched bytes",
                   .x_label = "KiB fetched a token",
                   .y_label = "KL, nats a token",
                   .y_low = 0,
                   .y_high = 0},
                  std::vector<PlotSeries>{tried, front, chosen});
}

std::string BytesCaption(const CalibrationResult& result) {
  const auto& measured = result.search.measured;
  const double limit = PlottedKl(result);
  const auto above = std::count_if(measured.begin(), measured.end(),
                                   [&](const MeasuredPolicy& m) { return m.kl() > limit; });
  return absl::StrCat(
      "KL from full attention against bytes fetched a token, of every policy tried, on ",
      "the calibration windows.",
      above == 0 ? "" : absl::StrCat(" Far above the plot: ", above, "."));
}

json ToJson(const TextSummary& s) {
  json out = {{"kl_nats_per_token", s.kl.mean},
              {"kl_standard_error", nullptr},
              {"top1_agreement", s.agreement.mean},
              {"perplexity_ratio", s.perplexity_ratio.mean},
              {"tokens", s.tokens},
              {"recall", json::array()}};
  if (s.kl.standard_error) out["kl_standard_error"] = *s.kl.standard_error;
  for (const LayerQuality& layer : s.layers) {
    out["recall"].push_back(layer.has_recall() ? json(layer.mean_recall()) : json(nullptr));
  }
  return out;
}

}  // namespace

json CalibrationJson(const CalibrationResult& result) {
  const std::vector<size_t> front = ParetoFront(result.search.measured);
  json tried = json::array();
  for (const MeasuredPolicy& m : result.search.measured) {
    tried.push_back({{"step", m.step},
                     {"policy", json::parse(m.policy.ToJson())},
                     {"fingerprint", m.policy.fingerprint().ToHex()},
                     {"fetched_bytes_per_token", m.cost.fetched_bytes},
                     {"device_bytes", m.cost.device_bytes},
                     {"scored_bytes_per_token", m.cost.scored_bytes},
                     {"quality", ToJson(m.quality)}});
  }
  return {{"version", kReportVersion},
          {"meets_limits", result.meets_limits},
          {"policy", json::parse(result.policy.ToJson())},
          {"dense_layers", result.dense_layers},
          {"chosen", result.search.chosen},
          {"pareto_front", front},
          {"tried", tried},
          {"held_out", ToJson(result.held_out)},
          {"default_held_out", ToJson(result.default_held_out)}};
}

std::string CalibrationMarkdown(const CalibrationResult& result) {
  return absl::StrCat("# ", kTitle, "\n\n", SubjectLine(result), "\n\n", LimitsLine(result),
                      "\n\nChosen: ", result.policy.Summary(), ".\n\n## Held out\n\n",
                      MarkdownTable(HeldOutTable(result)), "\n", kHeldOutNote, "\n\n## Tried\n\n",
                      MarkdownTable(TriedTable(result)), "\n", kTriedNote, "\n\n## Layers\n\n",
                      DenseLine(result), "\n\n", MarkdownTable(LayerTable(result)), "\n",
                      kScoreNote, "\n");
}

std::string CalibrationHtml(const CalibrationResult& result) {
  HtmlPage page(kTitle);
  page.AddParagraph(SubjectLine(result));
  page.AddParagraph(LimitsLine(result));
  page.AddParagraph(absl::StrCat("Chosen: ", result.policy.Summary(), "."));
  page.AddHeading("Held out");
  page.AddTable(HeldOutTable(result));
  page.AddParagraph(kHeldOutNote);
  page.AddHeading("Quality against bytes");
  page.AddFigure(BytesPlot(result), BytesCaption(result));
  page.AddTable(TriedTable(result));
  page.AddParagraph(kTriedNote);
  page.AddHeading("Layers");
  page.AddFigure(ScorePlot(result), "Dense preference of each layer, and the threshold.");
  page.AddFigure(RecallPlot(result),
                 "Mass recall per layer. Quantized layers attend to every token and have none.");
  page.AddParagraph(DenseLine(result));
  page.AddTable(LayerTable(result));
  page.AddParagraph(kScoreNote);
  return page.Finish();
}

}  // namespace tailor
