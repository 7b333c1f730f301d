#include "services/gateway/gateway_options.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "services/exit_code.h"
#include "services/local_address.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Example:
  tailor-gateway --model model.gguf --worker unix:/run/tailor/worker.sock
      `tailor up` starts it like this, beside its worker and store

Every flag has an environment variable: --database is TAILOR_GATEWAY_DATABASE.
Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model, 5 address busy.)";

void AddFlags(CLI::App& app, GatewayOptions& o) {
  app.add_option("--model", o.model, "The worker's model: its tokenizer and chat template are read")
      ->envname("TAILOR_GATEWAY_MODEL")
      ->required();
  app.add_option("--worker", o.worker, "The worker's gRPC address: HOST:PORT or unix:PATH")
      ->envname("TAILOR_GATEWAY_WORKER")
      ->required();
  app.add_option("--listen", o.listen, "Where clients connect: HOST:PORT or unix:PATH")
      ->envname("TAILOR_GATEWAY_LISTEN");
  app.add_flag("--insecure-listen", o.insecure_listen,
               "Allow --listen on an address other machines reach: no encryption, no keys")
      ->envname("TAILOR_GATEWAY_INSECURE_LISTEN");
  app.add_option("--database", o.database, "SQLite file of sessions and transcripts")
      ->envname("TAILOR_GATEWAY_DATABASE");
  app.add_flag("--durable-power", o.durable_power,
               "Wait for the disk at every turn: transcripts survive a power cut too")
      ->envname("TAILOR_GATEWAY_DURABLE_POWER");
  app.add_option("--context-tokens", o.context_tokens,
                 "Longest conversation: what the worker was started with; default: the model's")
      ->check(CLI::Range(1, 1 << 30))
      ->envname("TAILOR_GATEWAY_CONTEXT_TOKENS");
  app.add_option("--default-max-tokens", o.default_max_tokens,
                 "Longest answer of a request that does not say")
      ->check(CLI::Range(1, 1 << 20))
      ->envname("TAILOR_GATEWAY_DEFAULT_MAX_TOKENS");
  app.add_option("--resume-timeout-ms", o.resume_timeout_ms,
                 "How long a turn waits for a worker that died")
      ->check(CLI::Range(0, 3600000))
      ->envname("TAILOR_GATEWAY_RESUME_TIMEOUT_MS");
  app.add_option("--log-level", o.log_level, "trace, debug, info, warn or error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->envname("TAILOR_GATEWAY_LOG_LEVEL");
  app.add_flag("--die-with-parent", o.die_with_parent, "End when the starting process ends")
      ->envname("TAILOR_GATEWAY_DIE_WITH_PARENT");
  app.add_option("--ready-fd", o.ready_fd, "Write \"ready\" to this descriptor when serving")
      ->envname("TAILOR_GATEWAY_READY_FD");
}

}  // namespace

ParsedGatewayCommandLine ParseGatewayCommandLine(int argc, char** argv) {
  CLI::App app("Chat sessions over gRPC: text in, text out");
  app.footer(kFooter);
  app.set_version_flag("--version", TAILOR_VERSION);
  GatewayOptions options;
  AddFlags(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // the library's way to say --help and usage errors
    return {.options = std::nullopt, .exit_code = app.exit(error) == 0 ? kExitOk : kExitUsage};
  }
  if (!IsLocalAddress(options.listen) && !options.insecure_listen) {
    std::fprintf(
        stderr,
        "tailor-gateway: --listen %s can be reached from other machines, in plain text and "
        "without keys; put a proxy with TLS in front, or say --insecure-listen\n",
        options.listen.c_str());
    return {.options = std::nullopt, .exit_code = kExitUsage};
  }
  return {.options = options, .exit_code = kExitOk};
}

}  // namespace tailor
