#include "services/kvstore/store_options.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "common/status.h"
#include "services/exit_code.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Examples:
  tailor-kvstore --arena-bytes 2GiB --socket /run/tailor/kvstore.data.sock
                 --listen unix:/run/tailor/kvstore.sock

Every flag has an environment variable: --arena-bytes is TAILOR_KVSTORE_ARENA_BYTES.
Exit codes: 0 ok, 1 runtime, 2 usage, 4 not enough memory for the arena, 5 address busy.)";

void AddFlags(CLI::App& app, StoreOptions& options) {
  app.add_option("--arena-bytes", options.arena_bytes,
                 "Host memory for all pages, taken at start (\"2GiB\")")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str()
      ->envname("TAILOR_KVSTORE_ARENA_BYTES");
  app.add_option("--socket,--data-socket", options.socket,
                 "Data plane: path of the unix socket for workers of this machine")
      ->capture_default_str()
      ->envname("TAILOR_KVSTORE_SOCKET");
  app.add_option("--listen", options.listen, "Control plane, gRPC: HOST:PORT or unix:PATH")
      ->capture_default_str()
      ->envname("TAILOR_KVSTORE_LISTEN");
  app.add_option("--selection-threads", options.selection_threads,
                 "Threads that select rows for workers; more than cores - 1 does not help")
      ->capture_default_str()
      ->envname("TAILOR_KVSTORE_SELECTION_THREADS");
  app.add_option("--spin-us", options.spin_us,
                 "How long an idle selection thread looks before it sleeps, in microseconds")
      ->capture_default_str()
      ->envname("TAILOR_KVSTORE_SPIN_US");
}

void AddProcessFlags(CLI::App& app, StoreOptions& options) {
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn or error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str()
      ->envname("TAILOR_KVSTORE_LOG_LEVEL");
  app.add_flag("--die-with-parent", options.die_with_parent, "Stop when the parent process ends")
      ->envname("TAILOR_KVSTORE_DIE_WITH_PARENT");
  app.add_option("--ready-fd", options.ready_fd,
                 "Write \"ready\\n\" to this descriptor when serving")
      ->envname("TAILOR_KVSTORE_READY_FD");
}

absl::Status CheckRange(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is ", value, ", limit ", low, " to ", high));
}

}  // namespace

absl::Status StoreOptions::Validate() const {
  TS_RETURN_IF_ERROR(CheckRange("--arena-bytes", arena_bytes, int64_t{1} << 20, int64_t{1} << 47));
  TS_RETURN_IF_ERROR(CheckRange("--selection-threads", selection_threads, 1, 64));
  TS_RETURN_IF_ERROR(CheckRange("--spin-us", spin_us, 0, 1'000'000));
  if (socket.empty()) return absl::InvalidArgumentError("--socket is empty");
  if (listen.empty()) return absl::InvalidArgumentError("--listen is empty");
  return absl::OkStatus();
}

ParsedStoreCommandLine ParseStoreCommandLine(int argc, const char* const* argv) {
  CLI::App app("tailor-kvstore: the pages of all conversations of this machine, in host memory.",
               "tailor-kvstore");
  StoreOptions options;
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("tailor-kvstore ") + TAILOR_VERSION);
  AddFlags(app, options);
  AddProcessFlags(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return {std::nullopt, app.exit(error) == 0 ? kExitOk : kExitUsage};
  }
  if (const absl::Status valid = options.Validate(); !valid.ok()) {
    std::fprintf(stderr, "tailor-kvstore: %s\nRun with --help for more information.\n",
                 std::string(valid.message()).c_str());
    return {std::nullopt, kExitUsage};
  }
  return {std::move(options), kExitOk};
}

}  // namespace tailor
