// `tailor up`: its flags.
#include <memory>

#include "services/cli/command.h"
#include "services/cli/probe.h"
#include "services/cli/up_run.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Examples:
  tailor up --model model.gguf                 serve on 127.0.0.1:8001 until Ctrl-C
  tailor up --model model.gguf --detach        the same in the background; `tailor down` ends it
  tailor up --model llama-dir --port 9001 --arena-bytes 8GiB --threads 8
  tailor up --model model.gguf --run-dir /tmp/two --port 8002    a second one beside the first

It starts tailor-kvstore, tailor-worker and tailor-gateway, watches them, and starts one that dies
again. Logs: ~/.tailor/logs; conversations: ~/.tailor/data (with --run-dir DIR: below DIR).
Exit codes: 3 the model cannot be used, 4 not enough memory, 5 the port is busy,
6 no device (--backend cuda).)";

struct UpFlags {
  UpOptions options;
  bool detach = false;
};

void AddModelFlags(CLI::App& command, UpOptions& options) {
  command
      .add_option("--model", options.model, "The model: a .gguf file or a Hugging Face directory")
      ->required()
      ->envname("TAILOR_MODEL");
  command.add_option("--policy", options.policy, "A layer policy; default: the model's own file")
      ->envname("TAILOR_POLICY");
  command
      .add_option("--policy-dir", options.policy_dir,
                  "A directory of policies: <weights fingerprint>.json")
      ->envname("TAILOR_POLICY_DIR");
  command
      .add_option("--attention", options.attention,
                  "hybrid, or full (the uncompressed baseline); requests may say otherwise")
      ->check(CLI::IsMember({"hybrid", "full"}))
      ->capture_default_str()
      ->envname("TAILOR_ATTENTION");
  command
      .add_option(
          "--selector", options.selector,
          "Who selects rows: inline (worker), store, or the worker's GPU: sketch, device (for "
          "comparison); default: the policy's")
      ->check(CLI::IsMember({"inline", "store", "sketch", "device"}))
      ->envname("TAILOR_SELECTOR");
  command
      .add_option("--query", options.query,
                  "Select by the exact or the predicted query; default: the policy's")
      ->check(CLI::IsMember({"exact", "predicted"}))
      ->envname("TAILOR_QUERY");
}

void AddResourceFlags(CLI::App& command, UpOptions& options) {
  command
      .add_option("--arena-bytes", options.arena_bytes,
                  "Memory of the KV store (\"4GiB\"); default: a quarter of what is free, at "
                  "most 2GiB")
      ->transform(CLI::AsSizeValue(false))
      ->envname("TAILOR_ARENA_BYTES");
  command
      .add_option("--worker-memory-bytes", options.worker_memory_bytes,
                  "Limit of the KV kept in the worker; default: none")
      ->transform(CLI::AsSizeValue(false))
      ->envname("TAILOR_WORKER_MEMORY_BYTES");
  command
      .add_option("--backend", options.backend,
                  "Where the model runs: cpu (the default), cuda (no GPU has run it yet), or auto\n"
                  "(cuda when a device answers)")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->envname("TAILOR_BACKEND");
  command
      .add_option("--cuda-module", options.cuda_module,
                  "The CUDA backend: another module than the one beside the worker")
      ->envname("TAILOR_CUDA_MODULE");
  command
      .add_option("--device-memory", options.device_memory_bytes,
                  "Device memory the worker may use (\"20GiB\"); default: 90 % of what is free")
      ->transform(CLI::AsSizeValue(false))
      ->envname("TAILOR_DEVICE_MEMORY");
  command
      .add_option("--context-tokens", options.context_tokens,
                  "Longest conversation; default: the model's")
      ->check(CLI::Range(1, 1 << 30))
      ->envname("TAILOR_CONTEXT_TOKENS");
  command
      .add_option("--prefill-chunk-tokens", options.prefill_chunk_tokens,
                  "Tokens of one prefill unit: more is faster, fewer yield sooner to others")
      ->check(CLI::Range(1, 1 << 16))
      ->envname("TAILOR_PREFILL_CHUNK_TOKENS");
  command.add_option("--threads", options.threads, "Compute threads; default: one per core")
      ->check(CLI::Range(1, 1024))
      ->envname("TAILOR_THREADS");
}

void AddProcessFlags(CLI::App& command, UpFlags& flags) {
  UpOptions& options = flags.options;
  command
      .add_option("--host", options.host,
                  "Address to listen on; 0.0.0.0: every one of this machine (see "
                  "--insecure-listen)")
      ->capture_default_str()
      ->envname("TAILOR_HOST");
  command
      .add_flag("--insecure-listen", options.insecure_listen,
                "Allow a --host that other machines reach: no encryption, no keys")
      ->envname("TAILOR_INSECURE_LISTEN");
  command.add_option("--port", options.port, "Port of the gateway's gRPC API")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str()
      ->envname("TAILOR_PORT");
  command.add_option("--log-dir", options.log_dir, "Where the processes' logs go")
      ->envname("TAILOR_LOG_DIR");
  command.add_option("--data-dir", options.data_dir, "Where conversations are kept")
      ->envname("TAILOR_DATA_DIR");
  command
      .add_option("--bin-dir", options.bin_dir,
                  "Where the other programs are; default: beside this")
      ->envname("TAILOR_BIN_DIR");
  command.add_option("--log-level", options.log_level, "trace, debug, info, warn or error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str()
      ->envname("TAILOR_UP_LOG_LEVEL");
  command
      .add_option("--stop-timeout", options.stop_timeout_s,
                  "Seconds a process has to end before it is killed")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str()
      ->envname("TAILOR_STOP_TIMEOUT");
  command.add_flag("--detach", flags.detach, "Return once all is ready; run on in the background")
      ->envname("TAILOR_DETACH");
}

}  // namespace

void AddUpCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run) {
  CLI::App* command = app.add_subcommand("up", "Start everything on this machine");
  command->footer(kFooter);
  const auto flags = std::make_shared<UpFlags>();
  AddModelFlags(*command, flags->options);
  AddResourceFlags(*command, flags->options);
  AddProcessFlags(*command, *flags);
  command->callback([run, flags, &globals] {
    *run = [flags, &globals] {
      flags->options.run_dir = globals.run_dir;
      return RunUp(flags->options, flags->detach ? UpMode::kDetached : UpMode::kForeground,
                   ProbeLoad);
    };
  });
}

}  // namespace tailor
