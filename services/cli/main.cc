// tailor: the command line.
#include <cstdio>

#include "services/cli/command.h"
#include "services/cli/process/run_dir.h"
#include "services/exit_code.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
First steps:
  tailor up --model model.gguf                  start everything (another terminal: go on)
  tailor chat                                   talk
  tailor chat --document book.txt --ask "..."   ask about a long document
  tailor status                                 what runs, and what it holds
  tailor eval model.gguf --text book.txt        what the compressed cache costs in quality
  tailor calibrate model.gguf --text book.txt   a cache policy for a model, within your limits
  tailor COMMAND --help                         more, with examples

Every flag has an environment variable: --max-tokens is TAILOR_MAX_TOKENS; flags win.
Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model, 4 not enough memory, 5 port busy,
130 interrupted.)";

int Main(int argc, char** argv) {
  CLI::App app("TailorServe: chat about long documents with a compressed KV cache.", "tailor");
  GlobalOptions globals;
  RunFn run;
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--run-dir", globals.run_dir,
                 "Where the running processes' sockets and state are; default: "
                 "$XDG_RUNTIME_DIR/tailor, else ~/.tailor/run")
      ->envname("TAILOR_RUN_DIR");
  app.add_option(
         "--server", globals.server,
         "The gateway's gRPC address; default: the one running in --run-dir, else 127.0.0.1:8001")
      ->envname("TAILOR_SERVER");
  app.add_option("--api-key", globals.api_key, "Sent to a gateway that asks for one")
      ->envname("TAILOR_API_KEY");
  AddUpCommand(app, globals, &run);
  AddDownCommand(app, globals, &run);
  AddChatCommand(app, globals, &run);
  AddSessionsCommand(app, globals, &run);
  AddStatusCommand(app, globals, &run);
  AddEvalCommand(app, globals, &run);
  AddCalibrateCommand(app, globals, &run);
  AddVersionCommand(app, globals, &run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return run();
}

}  // namespace

RunDir ViewRunDir(const GlobalOptions& options) {
  return RunDir::View(options.run_dir.empty() ? RunDir::DefaultPath()
                                              : std::filesystem::path(options.run_dir));
}

std::string ServerAddress(const GlobalOptions& options) {
  if (!options.server.empty()) return options.server;
  const RunDir run_dir = ViewRunDir(options);
  if (run_dir.IsLocked()) {
    if (const absl::StatusOr<RunState> state = run_dir.ReadState(); state.ok()) {
      return state->gateway_address;
    }
  }
  return kDefaultServer;
}

}  // namespace tailor

int main(int argc, char** argv) { return tailor::Main(argc, argv); }
