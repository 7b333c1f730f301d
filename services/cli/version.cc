#include <cstdio>

#include "services/cli/command.h"
#include "services/exit_code.h"

namespace tailor {

void AddVersionCommand(CLI::App& app, const GlobalOptions&, RunFn* run) {
  CLI::App* command = app.add_subcommand("version", "Print the version");
  command->callback([run] {
    *run = [] {
      std::printf("tailor %s\n", TAILOR_VERSION);
      return static_cast<int>(kExitOk);
    };
  });
}

}  // namespace tailor
