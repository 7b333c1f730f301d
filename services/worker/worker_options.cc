#include "services/worker/worker_options.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>

#include "common/status.h"
#include "services/exit_code.h"
#include "worker/model/decode_row.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Examples:
  tailor-worker --model model.gguf --local-store 2GiB
      a worker with its own store, for a try-out
  tailor-worker --model model.gguf --kvstore unix:/run/tailor/kvstore.sock
                --kvstore-socket /run/tailor/kvstore-data.sock
      a worker of a store that outlives it (`tailor up` does this)

Every flag has an environment variable: --context-tokens is TAILOR_WORKER_CONTEXT_TOKENS.
Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model, 4 not enough memory, 5 address busy,
6 no device (--backend cuda), 75 the store went away (start the worker again).)";

const std::map<std::string, AttentionMode> kAttentionNames = {{"hybrid", AttentionMode::kHybrid},
                                                              {"full", AttentionMode::kFull}};
const std::map<std::string, Selector> kSelectorNames = {{"inline", Selector::kInline},
                                                        {"store", Selector::kStore},
                                                        {"sketch", Selector::kSketch},
                                                        {"device", Selector::kDevice}};
const std::map<std::string, BackendChoice> kBackendNames = {{"auto", BackendChoice::kAuto},
                                                            {"cpu", BackendChoice::kCpu},
                                                            {"cuda", BackendChoice::kCuda}};
const std::map<std::string, QueryMode> kQueryNames = {{"exact", QueryMode::kExact},
                                                      {"predicted", QueryMode::kPredicted}};

// Text of the enum flags, resolved after parsing.
struct EnumTexts {
  std::string attention = "hybrid", backend = "cpu", selector, query;
};

void AddModelFlags(CLI::App& app, WorkerOptions& options, EnumTexts& texts) {
  app.add_option("--model", options.model, "The model: a .gguf file or a Hugging Face directory")
      ->envname("TAILOR_WORKER_MODEL")
      ->required();
  app.add_option("--policy", options.policy,
                 "The layer policy (JSON); default: MODEL's neighbour <model>.policy.json")
      ->envname("TAILOR_WORKER_POLICY");
  app.add_option("--policy-dir", options.policy_dir,
                 "A directory of policies: <weights fingerprint>.json")
      ->envname("TAILOR_WORKER_POLICY_DIR");
  app.add_option("--attention-default", texts.attention,
                 "Attention of requests that do not say: hybrid, or full (the baseline)")
      ->check(CLI::IsMember(kAttentionNames))
      ->envname("TAILOR_WORKER_ATTENTION_DEFAULT");
  app.add_option(
         "--selector", texts.selector,
         "Who selects rows: inline (this process), store, or a GPU: sketch (from its own copy of "
         "the index), device (from the store's, over PCIe; for comparison). Without a GPU the last "
         "two are inline. Default: the policy's")
      ->check(CLI::IsMember(kSelectorNames))
      ->envname("TAILOR_WORKER_SELECTOR");
  app.add_option("--query", texts.query,
                 "Scores from the exact or the predicted query; default: the policy's")
      ->check(CLI::IsMember(kQueryNames))
      ->envname("TAILOR_WORKER_QUERY");
}

void AddStoreFlags(CLI::App& app, WorkerOptions& options) {
  app.add_option("--kvstore", options.kvstore, "The store's gRPC address: HOST:PORT or unix:PATH")
      ->envname("TAILOR_WORKER_KVSTORE");
  app.add_option("--kvstore-socket", options.kvstore_socket,
                 "The store's data plane: the path of its unix socket")
      ->envname("TAILOR_WORKER_KVSTORE_SOCKET");
  app.add_option("--local-store", options.local_store_bytes,
                 "Bytes of a store inside this process, instead of --kvstore (\"2GiB\")")
      ->transform(CLI::AsSizeValue(false))
      ->envname("TAILOR_WORKER_LOCAL_STORE");
}

void AddEngineFlags(CLI::App& app, WorkerOptions& options) {
  app.add_option("--threads", options.threads, "Compute threads; 0: one per core")
      ->envname("TAILOR_WORKER_THREADS");
  app.add_option("--worker-memory-bytes", options.engine.worker_memory_bytes,
                 "Budget of the KV kept in this process (\"4GiB\"); 0: no limit")
      ->transform(CLI::AsSizeValue(false))
      ->envname("TAILOR_WORKER_WORKER_MEMORY_BYTES");
  app.add_option("--context-tokens", options.engine.context_tokens,
                 "Longest conversation, in tokens; 0: the model's")
      ->envname("TAILOR_WORKER_CONTEXT_TOKENS");
  app.add_option("--prefill-chunk-tokens", options.engine.prefill_chunk_tokens,
                 "Tokens of one prefill unit: more is faster, fewer yield sooner to others")
      ->capture_default_str()
      ->envname("TAILOR_WORKER_PREFILL_CHUNK_TOKENS");
  app.add_option("--max-sequences", options.engine.max_sequences,
                 "Conversations live in this process; the least recently used is detached")
      ->capture_default_str()
      ->envname("TAILOR_WORKER_MAX_SEQUENCES");
  app.add_option(
         "--max-decode-rows", options.engine.max_decode_rows,
         "Answers that get their next token in one step, at most 16: more is faster in all, "
         "fewer\ngive each token sooner")
      ->capture_default_str()
      ->envname("TAILOR_WORKER_MAX_DECODE_ROWS");
}

void AddDeviceFlags(CLI::App& app, WorkerOptions& options, EnumTexts& texts) {
  app.add_option("--backend", texts.backend,
                 "Where the model runs: cpu, cuda (no GPU has run it yet), or auto (cuda when a device\n"
                 "answers)")
      ->check(CLI::IsMember(kBackendNames))
      ->capture_default_str()
      ->envname("TAILOR_WORKER_BACKEND");
  app.add_option("--device", options.device, "Which CUDA device")
      ->capture_default_str()
      ->envname("TAILOR_WORKER_DEVICE");
  app.add_option("--cuda-module", options.cuda_module,
                 "The CUDA backend: another module than the one beside this program")
      ->envname("TAILOR_WORKER_CUDA_MODULE");
  app.add_option("--device-memory", options.device_memory_bytes,
                 "Device memory this process may use, taken at start (\"20GiB\"); 0: 90 % of what "
                 "is free then")
      ->transform(CLI::AsSizeValue(false))
      ->envname("TAILOR_WORKER_DEVICE_MEMORY");
}

void AddProcessFlags(CLI::App& app, WorkerOptions& options) {
  app.add_option("--listen", options.listen, "gRPC address: HOST:PORT or unix:PATH")
      ->capture_default_str()
      ->envname("TAILOR_WORKER_LISTEN");
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn or error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str()
      ->envname("TAILOR_WORKER_LOG_LEVEL");
  app.add_flag("--die-with-parent", options.die_with_parent, "Stop when the parent process ends")
      ->envname("TAILOR_WORKER_DIE_WITH_PARENT");
  app.add_option("--ready-fd", options.ready_fd,
                 "Write \"ready\\n\" to this descriptor when serving")
      ->envname("TAILOR_WORKER_READY_FD");
}

absl::Status CheckRange(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " is ", value, ", limit ", low, "..", high));
}

}  // namespace

absl::Status WorkerOptions::Validate() const {
  constexpr int64_t kMost = int64_t{1} << 50;
  TS_RETURN_IF_ERROR(CheckRange("--threads", threads, 0, 1024));
  TS_RETURN_IF_ERROR(CheckRange("--device", device, 0, 1023));
  TS_RETURN_IF_ERROR(CheckRange("--device-memory", device_memory_bytes, 0, kMost));
  TS_RETURN_IF_ERROR(CheckRange("--local-store", local_store_bytes, 0, kMost));
  TS_RETURN_IF_ERROR(CheckRange("--worker-memory-bytes", engine.worker_memory_bytes, 0, kMost));
  TS_RETURN_IF_ERROR(CheckRange("--context-tokens", engine.context_tokens, 0, int64_t{1} << 30));
  TS_RETURN_IF_ERROR(CheckRange("--prefill-chunk-tokens", engine.prefill_chunk_tokens, 1, 1 << 16));
  TS_RETURN_IF_ERROR(CheckRange("--max-sequences", engine.max_sequences, 1, 1 << 16));
  TS_RETURN_IF_ERROR(CheckRange("--max-decode-rows", engine.max_decode_rows, 1, kMaxDecodeRows));
  const bool remote = !kvstore.empty() || !kvstore_socket.empty();
  if (remote == (local_store_bytes > 0)) {
    return absl::InvalidArgumentError(
        "give either --kvstore and --kvstore-socket (a store of its own) or --local-store BYTES "
        "(a store inside the worker)");
  }
  if (remote && (kvstore.empty() || kvstore_socket.empty())) {
    return absl::InvalidArgumentError("--kvstore and --kvstore-socket go together");
  }
  return absl::OkStatus();
}

ParsedCommandLine ParseWorkerCommandLine(int argc, const char* const* argv) {
  CLI::App app("tailor-worker: the model. Token ids in, token ids out, over gRPC.",
               "tailor-worker");
  WorkerOptions options;
  EnumTexts texts;
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("tailor-worker ") + TAILOR_VERSION);
  AddModelFlags(app, options, texts);
  AddStoreFlags(app, options);
  AddEngineFlags(app, options);
  AddDeviceFlags(app, options, texts);
  AddProcessFlags(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return {std::nullopt, app.exit(error) == 0 ? kExitOk : kExitUsage};
  }
  options.attention_default = kAttentionNames.at(texts.attention);
  options.backend = kBackendNames.at(texts.backend);
  if (!texts.selector.empty()) options.selector = kSelectorNames.at(texts.selector);
  if (!texts.query.empty()) options.query = kQueryNames.at(texts.query);
  if (const absl::Status valid = options.Validate(); !valid.ok()) {
    std::fprintf(stderr, "tailor-worker: %s\nRun with --help for more information.\n",
                 std::string(valid.message()).c_str());
    return {std::nullopt, kExitUsage};
  }
  return {std::move(options), kExitOk};
}

}  // namespace tailor
