// `tailor status`: what runs, how it is, what it holds.
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "services/cli/command.h"
#include "services/cli/failure.h"
#include "services/cli/probe.h"
#include "services/cli/report_format.h"
#include "services/cli/terminal.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr char kFooter[] = R"(
Examples:
  tailor status                       processes, sequences, pages, bytes by tier
  tailor status --json | jq .store    for programs
Exit code 0 when all processes answer, 1 otherwise.)";

int64_t AgeMs(int64_t unix_ms) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
             .count() -
         unix_ms;
}

const Health& HealthOf(const ServiceSnapshot& snapshot, const std::string& process) {
  if (process == "kvstore") return snapshot.kvstore;
  return process == "worker" ? snapshot.worker : snapshot.gateway;
}

json StoreJson(const v1::GetStatsResponse& store) {
  return {{"epoch", store.epoch()},
          {"arena_bytes", store.arena_bytes()},
          {"pool_bytes", store.pool_bytes()},
          {"page_bytes", store.page_bytes()},
          {"pages_total", store.pages_total()},
          {"pages_free", store.pages_free()},
          {"pages_open", store.pages_open()},
          {"pages_sealed", store.pages_sealed()},
          {"pages_shared", store.pages_shared()},
          {"sequences_attached", store.sequences_attached()},
          {"sequences_detached", store.sequences_detached()},
          {"evicted_sequences", store.evicted_sequences()},
          {"checksum_failures", store.checksum_failures()},
          {"stale_refusals", store.stale_refusals()},
          {"selects", store.selects()},
          {"exact_queries", store.exact_queries()}};
}

json WorkerJson(const v1::GetWorkerStatsResponse& stats) {
  return {{"sequences_live", stats.sequences_live()},
          {"turns_running", stats.turns_running()},
          {"turns_queued", stats.turns_queued()},
          {"tokens_generated", stats.tokens_generated()},
          {"tokens_prefilled", stats.tokens_prefilled()},
          {"tokens_reused", stats.tokens_reused()},
          {"decode_steps", stats.decode_steps()},
          {"decode_rows", stats.decode_rows()},
          {"checked_heads", stats.checked_heads()},
          {"captured_mass_sum", stats.captured_mass_sum()},
          {"output_error_sum", stats.output_error_sum()},
          {"weight_bytes", stats.weight_bytes()},
          {"kv_bytes", stats.worker_kv_bytes()},
          {"kv_limit_bytes", stats.worker_kv_limit_bytes()}};
}

void PrintJson(const RunState& state, const ServiceSnapshot& snapshot) {
  json out = {{"running", true},
              {"supervisor_pid", state.supervisor_pid},
              {"gateway_address", state.gateway_address},
              {"model", state.model},
              {"uptime_ms", AgeMs(state.started_unix_ms)},
              {"processes", json::array()}};
  for (const ChildStatus& process : state.processes) {
    const Health& health = HealthOf(snapshot, process.name);
    out["processes"].push_back({{"name", process.name},
                                {"pid", process.pid},
                                {"state", ToString(process.state)},
                                {"healthy", health.healthy},
                                {"health", health.text},
                                {"uptime_ms", AgeMs(process.started_unix_ms)},
                                {"starts", process.starts},
                                {"log", process.log_path.string()}});
  }
  if (snapshot.model) {
    const v1::ModelInfo& model = snapshot.model->model();
    out["policy"] = {{"summary", model.policy_summary()},
                     {"weights_fingerprint", model.weights_fingerprint()},
                     {"context_tokens", model.context_tokens()}};
  }
  if (snapshot.stats) out["worker"] = WorkerJson(*snapshot.stats);
  if (snapshot.store) out["store"] = StoreJson(*snapshot.store);
  std::printf("%s\n", Dump(out, 2).c_str());
}

void PrintProcesses(const RunState& state, const ServiceSnapshot& snapshot) {
  absl::PrintF("%s on %s, up %s\n\n", SafeForTerminal(state.model), state.gateway_address,
               ShortDuration(AgeMs(state.started_unix_ms)));
  absl::PrintF("%-8s %8s  %-10s %-14s %6s  %s\n", "PROCESS", "PID", "STATE", "UPTIME", "STARTS",
               "HEALTH");
  for (const ChildStatus& process : state.processes) {
    absl::PrintF("%-8s %8d  %-10s %-14s %6d  %s\n", process.name, process.pid,
                 ToString(process.state), ShortDuration(AgeMs(process.started_unix_ms)),
                 process.starts, SafeForTerminal(HealthOf(snapshot, process.name).text));
  }
}

void PrintMemory(const ServiceSnapshot& snapshot) {
  if (snapshot.model) {
    absl::PrintF("\npolicy   %s\n", SafeForTerminal(snapshot.model->model().policy_summary()));
  }
  if (snapshot.stats) {
    const v1::GetWorkerStatsResponse& stats = *snapshot.stats;
    absl::PrintF("worker   %d sequences live, %d turns running, %d queued\n",
                 stats.sequences_live(), stats.turns_running(), stats.turns_queued());
    absl::PrintF(
        "         %s weights, %s KV%s; tokens: %s reused, %s prefilled, %s generated\n",
        ShortBytes(stats.weight_bytes()), ShortBytes(stats.worker_kv_bytes()),
        stats.worker_kv_limit_bytes() > 0 ? " of " + ShortBytes(stats.worker_kv_limit_bytes()) : "",
        ShortCount(stats.tokens_reused()), ShortCount(stats.tokens_prefilled()),
        ShortCount(stats.tokens_generated()));
    if (stats.decode_steps() > 0) {
      absl::PrintF(
          "         %.1f turns a decode step\n",
          static_cast<double>(stats.decode_rows()) / static_cast<double>(stats.decode_steps()));
    }
  }
  if (snapshot.store) {
    const v1::GetStatsResponse& store = *snapshot.store;
    const int64_t used = store.pages_open() + store.pages_sealed();
    absl::PrintF(
        "store    %d sequences attached, %d detached; pages: %d open, %d sealed (%d "
        "shared), %d free of %d\n",
        store.sequences_attached(), store.sequences_detached(), store.pages_open(),
        store.pages_sealed(), store.pages_shared(), store.pages_free(), store.pages_total());
    absl::PrintF("         %s in pages of %s arena; %d evicted, %d checksum failures\n",
                 ShortBytes(used * store.page_bytes()), ShortBytes(store.arena_bytes()),
                 store.evicted_sequences(), store.checksum_failures());
  }
}

int RunStatus(const GlobalOptions& globals, bool as_json) {
  const RunDir run = ViewRunDir(globals);
  const absl::StatusOr<RunState> state =
      run.IsLocked() ? run.ReadState() : absl::NotFoundError("nothing is running");
  if (!state.ok()) {
    if (as_json) std::printf("%s\n", Dump(json{{"running", false}}).c_str());
    return Fail(kExitRuntime, absl::StrCat("nothing is running in ", run.path().string()),
                "`tailor up --model PATH` starts everything");
  }
  const ServiceSnapshot snapshot = ProbeServices(*state, globals.api_key);
  if (as_json) {
    PrintJson(*state, snapshot);
  } else {
    PrintProcesses(*state, snapshot);
    PrintMemory(snapshot);
    if (!state->processes.empty()) {
      absl::PrintF("logs     %s\n", state->processes[0].log_path.parent_path().string());
    }
  }
  const bool all = snapshot.kvstore.healthy && snapshot.worker.healthy && snapshot.gateway.healthy;
  return all ? kExitOk : kExitRuntime;
}

}  // namespace

void AddStatusCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run) {
  CLI::App* command = app.add_subcommand("status", "Show what runs, and what it holds");
  command->footer(kFooter);
  const auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "One JSON object")->envname("TAILOR_JSON");
  command->callback([run, as_json, &globals] {
    *run = [as_json, &globals] { return RunStatus(globals, *as_json); };
  });
}

}  // namespace tailor
