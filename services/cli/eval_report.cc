#include "services/cli/eval_report.h"

#include <algorithm>
#include <cmath>
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
constexpr char kTextNote[] =
    "Teacher-forced against full attention; figures are means over windows, ± the standard error "
    "over "
    "windows (none for a single window). Recall: share of the exact attention mass on the tokens "
    "attended, over sparse layers. Error: ||o - o_exact|| / ||o_exact|| of a layer's attention.";
constexpr char kTaskNote[] =
    "Scores in per cent, with 95 % percentile bootstrap intervals over items (10,000 resamples "
    "within "
    "each task, fixed seed; none where a task has one item). The difference to full is paired, "
    "item by item. Few items that all "
    "score "
    "alike give an interval without width: that is no certainty.";

std::string PerCent(const Estimate& e, const char* format) {
  const auto number = [&](double v) {
    return absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), v * 100);
  };
  if (!e.interval) return number(e.mean);
  return absl::StrCat(number(e.mean), " [", number(e.interval->low), ", ", number(e.interval->high),
                      "]");
}

// Over all layers of one method.
struct LayerTotals {
  double mean_recall = 0, worst_layer = 1, worst = 1, mean_error = 0;
  bool has_recall = false;
};
LayerTotals TotalsOf(const std::vector<LayerQuality>& layers) {
  LayerTotals totals;
  int with_recall = 0, with_error = 0;
  for (const LayerQuality& layer : layers) {
    if (layer.steps > 0) {
      totals.mean_error += layer.mean_error();
      ++with_error;
    }
    if (!layer.has_recall()) continue;
    ++with_recall;
    totals.mean_recall += layer.mean_recall();
    totals.worst_layer = std::min(totals.worst_layer, layer.mean_recall());
    totals.worst = std::min(totals.worst, layer.recall_worst);
  }
  totals.has_recall = with_recall > 0;
  if (with_recall > 0) totals.mean_recall /= with_recall;
  if (with_error > 0) totals.mean_error /= with_error;
  return totals;
}

Table TextTable(const TextResult& text) {
  Table table = {.header = {"method", "KL (nats/token)", "top-1 agreement %", "perplexity ratio",
                            "recall", "worst layer", "worst", "output error"},
                 .rows = {}};
  for (const auto& [name, s] : text.methods) {
    const LayerTotals totals = TotalsOf(s.layers);
    const auto recall = [&](double v) {
      return totals.has_recall ? absl::StrFormat("%.4f", v) : std::string("-");
    };
    table.rows.push_back({name, PlusMinus(s.kl, 1, "%.5f"), PlusMinus(s.agreement, 100, "%.2f"),
                          PlusMinus(s.perplexity_ratio, 1, "%.4f"), recall(totals.mean_recall),
                          recall(totals.worst_layer), recall(totals.worst),
                          absl::StrFormat("%.4f", totals.mean_error)});
  }
  return table;
}

Table TaskTable(const TaskResult& tasks) {
  Table table = {.header = {"task", "items"}, .rows = {}};
  for (const auto& [name, scores] : tasks.methods) table.header.push_back(name);
  const auto add_row = [&](const std::string& title, auto&& of) {
    std::vector<std::string> row = {title, absl::StrCat(of(tasks.methods.front().second).items)};
    for (const auto& [name, scores] : tasks.methods)
      row.push_back(PerCent(of(scores).score, "%.1f"));
    table.rows.push_back(std::move(row));
  };
  for (const auto& [task, unused] : tasks.methods.front().second.tasks) {
    add_row(task, [&](const MethodScores& m) { return m.tasks.at(task); });
  }
  add_row("mean of tasks", [](const MethodScores& m) { return m.overall; });
  std::vector<std::string> row = {"difference to full", absl::StrCat(tasks.items)};
  for (const auto& [name, m] : tasks.methods) {
    row.push_back(name == FullMethod().name ? "" : PerCent(m.overall.difference, "%+.1f"));
  }
  table.rows.push_back(std::move(row));
  return table;
}

std::string TextIntro(const TextResult& text) {
  std::string intro = absl::StrCat("Windows of ", text.options.context_tokens, " context and ",
                                   text.options.decode_tokens, " decoded tokens");
  if (text.methods.empty()) return intro + ".";
  const TextSummary& first = text.methods.front().second;
  return absl::StrCat(intro, ": ", first.windows, " windows, ", first.tokens,
                      " tokens; perplexity of full ", PlusMinus(first.perplexity_full, 1, "%.3f"),
                      ".");
}

std::string Skipped(const TaskResult& tasks) {
  if (tasks.skipped.empty()) return "";
  return absl::StrCat(tasks.skipped.size(),
                      " items are longer than the model's context and were "
                      "left out: ",
                      absl::StrJoin(tasks.skipped, ", "), ".");
}

std::string SubjectLine(const EvalSubject& s) {
  return absl::StrCat("Model ", s.model_name, " (weights ", s.weights.substr(0, 16), "). Policy (",
                      s.policy_source, "): ", s.policy_summary, ".");
}

json ToJson(const Spread& s) {
  json out = {{"mean", s.mean}, {"standard_error", nullptr}};
  if (s.standard_error) out["standard_error"] = *s.standard_error;
  return out;
}

json ToJson(const TaskScore& s) {
  const auto estimate = [](const Estimate& e) {
    json out = {{"mean", e.mean}, {"low", nullptr}, {"high", nullptr}};
    if (e.interval) {
      out["low"] = e.interval->low;
      out["high"] = e.interval->high;
    }
    return out;
  };
  return {{"items", s.items},
          {"score", estimate(s.score)},
          {"difference_to_full", estimate(s.difference)}};
}

json ToJson(const TextSummary& s) {
  json out = {{"windows", s.windows},
              {"tokens", s.tokens},
              {"kl_nats_per_token", ToJson(s.kl)},
              {"top1_agreement", ToJson(s.agreement)},
              {"perplexity_full", ToJson(s.perplexity_full)},
              {"perplexity_ratio", ToJson(s.perplexity_ratio)},
              {"layers", json::array()}};
  for (size_t l = 0; l < s.layers.size(); ++l) {
    const LayerQuality& layer = s.layers[l];
    json entry = {{"layer", l},
                  {"recall_mean", nullptr},
                  {"recall_worst", nullptr},
                  {"output_error", layer.mean_error()}};
    if (layer.has_recall()) {
      entry["recall_mean"] = layer.mean_recall();
      entry["recall_worst"] = layer.recall_worst;
    }
    out["layers"].push_back(std::move(entry));
  }
  return out;
}

size_t ColorOf(const std::string& name) {
  const auto methods = AllMethods();
  const auto at = std::find_if(methods.begin(), methods.end(),
                               [&](const Method& method) { return method.name == name; });
  return static_cast<size_t>(at - methods.begin());
}

std::string RecallPlot(const TextResult& text) {
  std::vector<PlotSeries> series;
  for (const auto& [name, summary] : text.methods) {
    PlotSeries line = {.name = name, .color = ColorOf(name), .points = {}};
    bool any = false;
    for (size_t l = 0; l < summary.layers.size(); ++l) {
      const LayerQuality& layer = summary.layers[l];
      any = any || layer.has_recall();
      line.points.emplace_back(
          static_cast<double>(l),
          layer.has_recall() ? layer.mean_recall() : std::numeric_limits<double>::quiet_NaN());
    }
    if (any) series.push_back(std::move(line));
  }
  return LinePlot({.title = "Mass recall per layer",
                   .x_label = "layer",
                   .y_label = "mass recall",
                   .y_low = 0,
                   .y_high = 1},
                  series);
}

std::string KlPlot(const TextResult& text) {
  std::vector<PlotBar> bars;
  for (const auto& [name, summary] : text.methods) {
    const double error = summary.kl.standard_error.value_or(0);
    bars.push_back(
        {name, ColorOf(name), summary.kl.mean, summary.kl.mean - error, summary.kl.mean + error});
  }
  return BarPlot({.title = "KL from full",
                  .x_label = "",
                  .y_label = "nats per token",
                  .y_low = 0,
                  .y_high = 0},
                 bars);
}

std::string ScorePlot(const TaskResult& tasks) {
  std::vector<PlotBar> bars;
  for (const auto& [name, scores] : tasks.methods) {
    const Estimate& e = scores.overall.score;
    const Interval interval = e.interval.value_or(Interval{e.mean, e.mean});
    bars.push_back({name, ColorOf(name), 100 * e.mean, 100 * interval.low, 100 * interval.high});
  }
  return BarPlot({.title = "Task score",
                  .x_label = "",
                  .y_label = "mean of tasks, %",
                  .y_low = 0,
                  .y_high = 100},
                 bars);
}

}  // namespace

json EvalJson(const EvalSubject& subject, const EvaluationResult& result) {
  json out = {{"version", kReportVersion},
              {"model", {{"name", subject.model_name}, {"weights", subject.weights}}},
              {"policy",
               {{"fingerprint", subject.policy},
                {"summary", subject.policy_summary},
                {"source", subject.policy_source}}},
              {"simd", subject.simd}};
  if (result.tasks) {
    json& tasks = out["tasks"];
    tasks = {{"items", result.tasks->items},
             {"skipped", result.tasks->skipped},
             {"interval", "95 % percentile bootstrap"},
             {"resamples", kBootstrapResamples}};
    for (const auto& [name, scores] : result.tasks->methods) {
      json& method = tasks["methods"][name];
      method["overall"] = ToJson(scores.overall);
      for (const auto& [task, score] : scores.tasks) method["tasks"][task] = ToJson(score);
    }
  }
  if (result.text) {
    out["text"] = {{"context_tokens", result.text->options.context_tokens},
                   {"decode_tokens", result.text->options.decode_tokens}};
    for (const auto& [name, summary] : result.text->methods) {
      out["text"]["methods"][name] = ToJson(summary);
    }
  }
  return out;
}

std::string EvalMarkdown(const EvalSubject& subject, const EvaluationResult& result) {
  std::string out =
      absl::StrCat("# Quality against the full cache\n\n", SubjectLine(subject), "\n");
  if (result.tasks) {
    absl::StrAppend(&out, "\n## Tasks\n\n", MarkdownTable(TaskTable(*result.tasks)), "\n",
                    kTaskNote, "\n");
    if (const std::string skipped = Skipped(*result.tasks); !skipped.empty()) {
      absl::StrAppend(&out, "\n", skipped, "\n");
    }
  }
  if (result.text) {
    absl::StrAppend(&out, "\n## Text\n\n", TextIntro(*result.text), "\n\n",
                    MarkdownTable(TextTable(*result.text)), "\n", kTextNote, "\n");
  }
  return out;
}

std::string EvalHtml(const EvalSubject& subject, const EvaluationResult& result) {
  HtmlPage page("Quality against the full cache");
  page.AddParagraph(SubjectLine(subject));
  if (result.tasks) {
    page.AddHeading("Tasks");
    page.AddFigure(ScorePlot(*result.tasks), "Mean of the tasks' scores, with 95 % intervals.");
    page.AddTable(TaskTable(*result.tasks));
    page.AddParagraph(kTaskNote);
    if (!result.tasks->skipped.empty()) page.AddParagraph(Skipped(*result.tasks));
  }
  if (result.text) {
    page.AddHeading("Text");
    page.AddParagraph(TextIntro(*result.text));
    page.AddFigure(KlPlot(*result.text), "KL(full || method), ± the standard error over windows.");
    page.AddFigure(RecallPlot(*result.text),
                   "Mass recall per layer. Quantized layers attend to every token and have none.");
    page.AddTable(TextTable(*result.text));
    page.AddParagraph(kTextNote);
  }
  page.AddHeading("Methods");
  Table methods = {.header = {"method", "what it is"}, .rows = {}};
  for (const Method& method : AllMethods()) {
    methods.rows.push_back({std::string(method.name), std::string(method.description)});
  }
  page.AddTable(methods);
  return page.Finish();
}

}  // namespace tailor
