// `tailor sessions`: list, show, delete, fork.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "services/cli/command.h"
#include "services/cli/failure.h"
#include "services/cli/gateway_client.h"
#include "services/cli/report_format.h"
#include "services/cli/terminal.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr char kFooter[] = R"(
Examples:
  tailor sessions                        all conversations, the last used first
  tailor sessions show my-notes          what was said
  tailor sessions fork my-notes draft-2  a copy to try something in
  tailor sessions delete draft-2
  tailor sessions --json | jq -r .id     for programs: one JSON object a line)";

struct SessionsFlags {
  std::string id, new_id;
  bool json = false;
};

int64_t NowUnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

const char* RoleName(v1::Message::Role role) {
  switch (role) {
    case v1::Message::ROLE_SYSTEM:
      return "system";
    case v1::Message::ROLE_USER:
      return "user";
    case v1::Message::ROLE_ASSISTANT:
      return "assistant";
    case v1::Message::ROLE_DOCUMENT:
      return "document";
    default:
      return "unknown";
  }
}

// A document is long: the list of messages shows its beginning.
std::string Shown(const v1::Message& message) {
  constexpr size_t kBeginning = 200;
  std::string text = message.text();
  if (message.role() == v1::Message::ROLE_DOCUMENT && text.size() > kBeginning) {
    size_t end = kBeginning;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
    text.resize(end);
    text += " ...";
  }
  return SafeForTerminal(text);
}

int List(GatewayClient& client, bool as_json) {
  absl::StatusOr<std::vector<v1::Session>> sessions = client.ListSessions();
  if (!sessions.ok()) return FailCall(sessions.status(), "cannot list", client.address());
  std::stable_sort(sessions->begin(), sessions->end(),
                   [](const v1::Session& a, const v1::Session& b) {
                     return a.updated_unix_ms() > b.updated_unix_ms();
                   });
  if (!as_json && sessions->empty()) {
    std::printf("no sessions yet: `tailor chat` starts one\n");
    return kExitOk;
  }
  if (!as_json)
    absl::PrintF("%-24s %8s %8s  %-12s  %s\n", "ID", "MESSAGES", "TOKENS", "USED", "TITLE");
  for (const v1::Session& session : *sessions) {
    if (as_json) {
      std::printf("%s\n", Dump(SessionJson(session)).c_str());
      continue;
    }
    const std::string used = ShortDuration(NowUnixMs() - session.updated_unix_ms()) + " ago";
    absl::PrintF("%-24s %8d %8d  %-12s  %s\n", SafeForTerminal(session.id()), session.messages(),
                 session.tokens(), used, SafeForTerminal(session.title()));
  }
  return kExitOk;
}

int Show(GatewayClient& client, const SessionsFlags& flags) {
  const absl::StatusOr<v1::GetSessionResponse> found = client.GetSession(flags.id);
  if (!found.ok()) {
    return FailCall(found.status(), absl::StrCat("cannot show ", flags.id), client.address());
  }
  if (flags.json) {
    json whole = SessionJson(found->session());
    whole["transcript"] = json::array();
    for (const v1::Message& message : found->messages()) {
      whole["transcript"].push_back({{"role", RoleName(message.role())},
                                     {"name", message.name()},
                                     {"text", message.text()},
                                     {"tokens", message.tokens()}});
    }
    std::printf("%s\n", Dump(whole).c_str());
    return kExitOk;
  }
  for (const v1::Message& message : found->messages()) {
    absl::PrintF("[%s%s%s, %d tokens]\n%s\n\n", RoleName(message.role()),
                 message.name().empty() ? "" : " ", SafeForTerminal(message.name()),
                 message.tokens(), Shown(message));
  }
  return kExitOk;
}

int Delete(GatewayClient& client, const SessionsFlags& flags) {
  const absl::Status deleted = client.DeleteSession(flags.id);
  if (!deleted.ok()) {
    return FailCall(deleted, absl::StrCat("cannot delete ", flags.id), client.address());
  }
  if (flags.json) {
    std::printf("%s\n", Dump(json{{"deleted", flags.id}}).c_str());
  } else {
    std::printf("deleted %s\n", SafeForTerminal(flags.id).c_str());
  }
  return kExitOk;
}

int Fork(GatewayClient& client, const SessionsFlags& flags) {
  const absl::StatusOr<v1::Session> forked = client.ForkSession(flags.id, flags.new_id);
  if (!forked.ok()) {
    return FailCall(forked.status(), absl::StrCat("cannot fork ", flags.id), client.address());
  }
  if (flags.json) {
    std::printf("%s\n", Dump(SessionJson(*forked)).c_str());
  } else {
    std::printf("%s\n", SafeForTerminal(forked->id()).c_str());
  }
  return kExitOk;
}

}  // namespace

void AddSessionsCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run) {
  CLI::App* command = app.add_subcommand("sessions", "List, show, fork and delete conversations");
  command->footer(kFooter);
  command->require_subcommand(0, 1);
  const auto flags = std::make_shared<SessionsFlags>();
  command->add_flag("--json", flags->json, "JSON, one object a line")->envname("TAILOR_JSON");
  const auto with_client = [run, flags,
                            &globals](int (*action)(GatewayClient&, const SessionsFlags&)) {
    return [run, flags, &globals, action] {
      *run = [flags, &globals, action] {
        GatewayClient client(ServerAddress(globals), globals.api_key);
        return action(client, *flags);
      };
    };
  };
  const auto list = [](GatewayClient& client, const SessionsFlags& f) {
    return List(client, f.json);
  };
  command->add_subcommand("list", "All conversations (the default)");
  CLI::App* show = command->add_subcommand("show", "What was said");
  CLI::App* remove = command->add_subcommand("delete", "Forget a conversation, and its memory");
  CLI::App* fork = command->add_subcommand("fork", "A copy that shares its parent's memory");
  for (CLI::App* one : {show, remove, fork}) {
    one->add_option("id", flags->id, "The session")->required();
  }
  fork->add_option("new-id", flags->new_id, "The copy's name; default: the server makes one");
  // The parent's callback runs last: it must not undo a subcommand's choice.
  command->callback([command, set = with_client(+list)] {
    if (command->get_subcommands().empty() || command->got_subcommand("list")) set();
  });
  show->callback(with_client(Show));
  remove->callback(with_client(Delete));
  fork->callback(with_client(Fork));
}

}  // namespace tailor
