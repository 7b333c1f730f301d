// How far the hybrid cache is from the full one, beside the controls (ALGORITHM §6).
//
//   quality tasks --model M --tasks FILE.jsonl --out DIR    greedy answers by each method, one file a
//                                                           method, for the task scorer
//   quality text  --model M --text FILE                     KL, top-1 agreement, perplexity ratio,
//                                                           mass recall and output error, as JSON
//
// Every method decodes from the same prefilled rows, so differences are the cache's alone.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/text/chat_template.h"
#include "common/text/detokenizer.h"
#include "common/text/tokenizer.h"
#include "tests/support/bench_model.h"
#include "tests/eval/control_fetchers.h"
#include "tests/eval/recall_probe.h"

namespace tailor {
namespace {

using nlohmann::json;

struct Options {
  BenchModelOptions model;
  std::string tasks, text, out = ".", methods = "full,hybrid";
  int limit = 0, context_tokens = 3500, decode_tokens = 128, windows = 4;
};

absl::Status UseMethod(const std::string& method, const BenchModel& bench, SequenceCache& cache) {
  static const std::map<std::string, Control> kControls = {
      {"oracle", Control::kOracle}, {"random", Control::kRandom}, {"window", Control::kWindowOnly}};
  if (method == "full" || method == "hybrid") return absl::OkStatus();
  const auto control = kControls.find(method);
  if (control == kControls.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("method ", method, " is none of full, hybrid, oracle, random, window"));
  }
  cache.set_fetcher(
      MakeControlFetcher(control->second, bench.pool.shape(), bench.policy.select, 7));
  return absl::OkStatus();
}

CacheMode ModeOf(const std::string& method) {
  return method == "full" ? CacheMode::kFull : CacheMode::kHybrid;
}

std::vector<std::string> Split(const std::string& list) {
  std::vector<std::string> parts;
  std::stringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

TokenId ArgMax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

absl::StatusOr<std::string> Continue(BenchModel& bench, const Tokenizer& tokenizer, TokenId first,
                                     int max_tokens, SequenceCache& cache) {
  Detokenizer text(tokenizer);
  std::string output;
  TokenId token = first;
  const auto& stops = tokenizer.end_of_generation();
  for (int i = 0; i < max_tokens; ++i) {
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) break;
    output += text.Push(token);
    if (i + 1 == max_tokens) break;
    TS_RETURN_IF_ERROR(bench.Step(token, cache));
    token = ArgMax(bench.logits());
  }
  return output + text.Flush();
}

absl::Status RunItem(const json& item, const std::vector<std::string>& methods, BenchModel& bench,
                     const Tokenizer& tokenizer, const ChatTemplate& chat,
                     std::map<std::string, std::ofstream>& outputs) {
  TS_ASSIGN_OR_RETURN(std::vector<TokenId> ids, chat.OpenConversation(std::nullopt));
  TS_ASSIGN_OR_RETURN(const auto user, chat.UserTurn(item["prompt"].get<std::string>()));
  ids.insert(ids.end(), user.begin(), user.end());
  TS_ASSIGN_OR_RETURN(const auto prefix, tokenizer.Encode(item.value("answer_prefix", "")));
  ids.insert(ids.end(), prefix.begin(), prefix.end());
  const int max_tokens = item["max_tokens"].get<int>();
  const int64_t total = static_cast<int64_t>(ids.size()) + max_tokens;
  TS_ASSIGN_OR_RETURN(auto prompt, bench.Open("item", CacheMode::kHybrid, total));
  TS_RETURN_IF_ERROR(bench.RunPrefill(ids, *prompt));
  const TokenId first = ArgMax(bench.logits());
  for (const std::string& method : methods) {
    TS_ASSIGN_OR_RETURN(auto cache, bench.Fork(*prompt, method, ModeOf(method), total));
    TS_RETURN_IF_ERROR(UseMethod(method, bench, *cache));
    TS_ASSIGN_OR_RETURN(const std::string output,
                        Continue(bench, tokenizer, first, max_tokens, *cache));
    outputs[method] << json{{"id", item["id"]}, {"output", output}}.dump() << std::endl;
    TS_RETURN_IF_ERROR(bench.store->CloseSequence(cache->handle()));
  }
  return bench.store->CloseSequence(prompt->handle());
}

absl::Status RunTasks(const Options& options) {
  TS_ASSIGN_OR_RETURN(auto bench, BenchModel::Load(options.model));
  TS_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Create(bench->file->tokenizer()));
  TS_ASSIGN_OR_RETURN(const auto chat, ChatTemplate::Create(bench->file->tokenizer(), *tokenizer));
  const std::vector<std::string> methods = Split(options.methods);
  std::filesystem::create_directories(options.out);
  std::map<std::string, std::ofstream> outputs;
  for (const std::string& method : methods) {
    outputs[method].open(std::filesystem::path(options.out) / (method + ".jsonl"));
  }
  std::ifstream tasks(options.tasks);
  if (!tasks) return absl::NotFoundError(absl::StrCat("task file ", options.tasks, " not found"));
  int done = 0;
  for (std::string line; std::getline(tasks, line);) {
    if (options.limit > 0 && done >= options.limit) break;
    TS_RETURN_IF_ERROR(RunItem(json::parse(line), methods, *bench, *tokenizer, chat, outputs));
    std::fprintf(stderr, "\r%d items", ++done);
  }
  std::fprintf(stderr, "\n");
  return absl::OkStatus();
}

// log softmax of logits, in double.
std::vector<double> LogProbabilities(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(l - largest);
  std::vector<double> out(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) out[i] = logits[i] - largest - std::log(sum);
  return out;
}

struct TextScores {
  double kl = 0, log_full = 0, log_method = 0;
  int64_t agree = 0, tokens = 0;
};

absl::Status ScoreWindow(const Options& options, const std::vector<std::string>& methods,
                         std::span<const TokenId> ids, BenchModel& bench,
                         std::map<std::string, TextScores>& scores,
                         std::map<std::string, std::unique_ptr<RecallProbe>>& probes) {
  const int64_t total = static_cast<int64_t>(ids.size());
  const auto prompt_ids = ids.first(options.context_tokens);
  TS_ASSIGN_OR_RETURN(auto prompt, bench.Open("text", CacheMode::kHybrid, total));
  TS_RETURN_IF_ERROR(bench.RunPrefill({prompt_ids.begin(), prompt_ids.end()}, *prompt));
  std::vector<std::vector<double>> full;
  for (const std::string& method : methods) {
    TS_ASSIGN_OR_RETURN(auto cache, bench.Fork(*prompt, method, ModeOf(method), total));
    TS_RETURN_IF_ERROR(UseMethod(method, bench, *cache));
    if (method != "full") cache->set_probe(probes[method].get());
    TextScores& score = scores[method];
    for (int i = options.context_tokens; i + 1 < total; ++i) {
      TS_RETURN_IF_ERROR(bench.Step(ids[i], *cache));
      std::vector<double> log_p = LogProbabilities(bench.logits());
      const size_t step = i - options.context_tokens;
      if (method == "full") full.push_back(log_p);
      for (size_t v = 0; v < log_p.size(); ++v) {
        score.kl += std::exp(full[step][v]) * (full[step][v] - log_p[v]);
      }
      score.agree += std::max_element(full[step].begin(), full[step].end()) - full[step].begin() ==
                     std::max_element(log_p.begin(), log_p.end()) - log_p.begin();
      score.log_full += full[step][ids[i + 1]];
      score.log_method += log_p[ids[i + 1]];
      ++score.tokens;
    }
    TS_RETURN_IF_ERROR(bench.store->CloseSequence(cache->handle()));
  }
  return bench.store->CloseSequence(prompt->handle());
}

json Report(const TextScores& score, const RecallProbe* probe) {
  const auto tokens = static_cast<double>(score.tokens);
  json out = {{"tokens", score.tokens},
              {"kl_nats_per_token", score.kl / tokens},
              {"top1_agreement", static_cast<double>(score.agree) / tokens},
              {"perplexity_ratio", std::exp((score.log_full - score.log_method) / tokens)}};
  double recall = 0, worst = 1, error = 0;
  int layers = 0;
  json per_layer = json::array();
  for (const LayerQuality& layer : probe != nullptr ? probe->layers() : std::vector<LayerQuality>()) {
    per_layer.push_back(layer.mean_recall());
    if (layer.steps == 0) continue;
    ++layers;
    recall += layer.mean_recall();
    error += layer.mean_error();
    worst = std::min(worst, layer.mean_recall());
  }
  if (layers > 0) {
    out["mass_recall_mean"] = recall / layers;
    out["mass_recall_worst_layer"] = worst;
    out["output_error_mean"] = error / layers;
    out["mass_recall_by_layer"] = per_layer;
  }
  return out;
}

absl::Status RunText(const Options& options) {
  TS_ASSIGN_OR_RETURN(auto bench, BenchModel::Load(options.model));
  TS_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Create(bench->file->tokenizer()));
  std::ifstream file(options.text);
  if (!file) return absl::NotFoundError(absl::StrCat("text file ", options.text, " not found"));
  std::stringstream text;
  text << file.rdbuf();
  TS_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer->Encode(text.str()));
  const std::vector<std::string> methods = Split(options.methods);
  if (methods.empty() || methods[0] != "full") {
    return absl::InvalidArgumentError("methods must begin with full, the yardstick");
  }
  std::map<std::string, TextScores> scores;
  std::map<std::string, std::unique_ptr<RecallProbe>> probes;
  const LlamaHyperparameters& shape = bench->model.shape;
  for (const std::string& method : methods) {
    if (method == "full") continue;
    probes[method] = std::make_unique<RecallProbe>(bench->backend.get(), shape.layers, shape.q_heads);
  }
  const int64_t window = options.context_tokens + options.decode_tokens + 1;
  if (static_cast<int64_t>(ids.size()) < window * options.windows) {
    return absl::InvalidArgumentError(absl::StrCat("text has ", ids.size(), " tokens, needs ",
                                                   window * options.windows));
  }
  const int64_t stride = static_cast<int64_t>(ids.size()) / options.windows;
  for (int w = 0; w < options.windows; ++w) {
    TS_RETURN_IF_ERROR(ScoreWindow(options, methods, std::span(ids).subspan(w * stride, window),
                                   *bench, scores, probes));
    std::fprintf(stderr, "\rwindow %d of %d", w + 1, options.windows);
  }
  std::fprintf(stderr, "\n");
  json out = {{"policy", bench->policy.Summary()}, {"context_tokens", options.context_tokens}};
  for (const std::string& method : methods) {
    out["methods"][method] = Report(scores[method], probes[method].get());
  }
  std::printf("%s\n", out.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::Options options;
  CLI::App app("Quality of the hybrid cache against the full one");
  app.require_subcommand(1);
  for (const char* name : {"tasks", "text"}) {
    CLI::App* command = app.add_subcommand(name);
    command->add_option("--model", options.model.model_path, "GGUF file or model directory")
        ->required();
    command->add_option("--policy", options.model.policy_path, "policy file");
    command->add_option("--threads", options.model.threads);
    command->add_option("--methods", options.methods,
                        "comma-separated: full, hybrid, oracle, random, window");
  }
  CLI::App* tasks = app.get_subcommand("tasks");
  tasks->add_option("--tasks", options.tasks, "task items, JSON lines")->required();
  tasks->add_option("--out", options.out, "folder for METHOD.jsonl");
  tasks->add_option("--limit", options.limit, "items to run; 0: all");
  CLI::App* text = app.get_subcommand("text");
  text->add_option("--text", options.text, "UTF-8 text")->required();
  text->add_option("--context", options.context_tokens, "prefilled tokens of each window");
  text->add_option("--decode", options.decode_tokens, "teacher-forced tokens of each window");
  text->add_option("--windows", options.windows);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status =
      app.got_subcommand("tasks") ? tailor::RunTasks(options) : tailor::RunText(options);
  if (!status.ok()) std::fprintf(stderr, "quality: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
