// The shape of every subcommand: AddXCommand puts its flags into the application and, when the user
// chose it, leaves what to run in `run`. One file a command.
#pragma once

#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "services/cli/process/run_dir.h"

namespace tailor {

using RunFn = std::function<int()>;  // returns the exit code

// Flags that every command takes.
struct GlobalOptions {
  std::string run_dir;  // empty: RunDir::DefaultPath()
  std::string server;   // gateway gRPC address; empty: of what runs in run_dir, else 127.0.0.1:8001
  std::string api_key;  // sent as "authorization: Bearer ..." when not empty
};

inline constexpr char kDefaultServer[] = "127.0.0.1:8001";

// Where the gateway is (see GlobalOptions::server).
std::string ServerAddress(const GlobalOptions& options);

// The run directory these options name, for looking.
RunDir ViewRunDir(const GlobalOptions& options);

void AddUpCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);
void AddDownCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);
void AddChatCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);
void AddSessionsCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);
void AddStatusCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);
void AddEvalCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);
void AddCalibrateCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);
void AddVersionCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run);

}  // namespace tailor
