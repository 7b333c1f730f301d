#include "services/cli/chat_loop.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "common/status.h"
#include "services/cli/failure.h"
#include "services/cli/report_format.h"

namespace tailor {
namespace {

constexpr char kHelp[] =
    "  /doc FILE   add a document to the conversation\n"
    "  /fork [ID]  go on in a copy of this conversation; this one stays as it is\n"
    "  /report     what the last answer cost\n"
    "  /quit       leave (so does Ctrl-D); the conversation stays: `tailor sessions`\n"
    "  Ctrl-C      stop the answer; at the prompt: leave\n";

const char* PhaseLabel(v1::TurnPhase phase) {
  switch (phase) {
    case v1::TURN_PHASE_QUEUED:
      return "waiting";
    case v1::TURN_PHASE_LOADING:
      return "loading";
    case v1::TURN_PHASE_PREFILL:
      return "reading";
    default:
      return "working";
  }
}

Terminal QuietIf(bool json) {
  Terminal terminal = DetectTerminal();
  if (json && !terminal.error) terminal.progress = ProgressStyle::kNone;
  return terminal;
}

std::string Argument(const std::string& line) {
  const size_t space = line.find(' ');
  if (space == std::string::npos) return "";
  const size_t start = line.find_first_not_of(' ', space);
  if (start == std::string::npos) return "";
  return line.substr(start, line.find_last_not_of(' ') - start + 1);
}

}  // namespace

ChatLoop::ChatLoop(const ChatOptions& options, GatewayClient* client, Interrupts* interrupts)
    : options_(options),
      client_(client),
      interrupts_(interrupts),
      terminal_(QuietIf(options.json)),
      progress_(terminal_) {}

GatewayClient::CancelHookFn ChatLoop::Hook() {
  return [this](std::function<void()> cancel) {
    if (cancel) {
      scope_.emplace(*interrupts_, std::move(cancel));
    } else {
      interrupted_ = scope_->interrupted();
      scope_.reset();
    }
  };
}

int ChatLoop::Run() {
  if (const int code = OpenSession(); code != kExitOk) return code;
  if (const int code = AttachDocuments(); code != kExitOk) return code;
  return options_.questions.empty() ? Interact() : AskAll();
}

int ChatLoop::OpenSession() {
  if (options_.session.empty()) return CreateSession();
  const absl::StatusOr<v1::GetSessionResponse> found = client_->GetSession(options_.session);
  if (absl::IsNotFound(found.status())) return CreateSession();
  if (!found.ok()) {
    return FailCall(found.status(), absl::StrCat("cannot open session ", options_.session),
                    client_->address());
  }
  session_ = found->session().id();
  if (!options_.system.empty()) {
    return Fail(kExitUsage, absl::StrCat("session ", session_, " exists: its system text is set"),
                "leave --system out, or start a new session");
  }
  return kExitOk;
}

int ChatLoop::CreateSession() {
  v1::CreateSessionRequest request;
  request.set_id(options_.session);
  request.set_system(options_.system);
  request.set_attention(options_.attention);
  const absl::StatusOr<v1::Session> created = client_->CreateSession(request);
  if (!created.ok()) {
    return FailCall(created.status(), "cannot start a session", client_->address());
  }
  session_ = created->id();
  if (!options_.json) std::fprintf(stderr, "session %s\n", SafeForTerminal(session_).c_str());
  return kExitOk;
}

int ChatLoop::AttachDocuments() {
  for (const std::string& path : options_.documents) {
    if (const int code = AttachFile(path); code != kExitOk) return code;
  }
  return kExitOk;
}

int ChatLoop::AttachFile(const std::string& path) {
  const bool standard_input = path == "-";
  std::error_code error;
  std::ifstream file;
  v1::AttachDocumentHeader header;
  header.set_session_id(session_);
  header.set_name(standard_input ? "stdin" : std::filesystem::path(path).filename().string());
  if (!standard_input) {
    file.open(path, std::ios::binary);
    const uintmax_t bytes = std::filesystem::file_size(path, error);
    if (!file || error || std::filesystem::is_directory(path, error)) {
      return Fail(kExitUsage, absl::StrCat("cannot read the document ", path),
                  "give the path of a text file in UTF-8, or - for standard input");
    }
    header.set_total_bytes(static_cast<int64_t>(bytes));
  }
  const auto on_bytes = [&](int64_t done_bytes) {
    progress_.Show(absl::StrCat("sending ", header.name()), done_bytes, header.total_bytes());
  };
  const absl::StatusOr<v1::AttachDocumentResponse> attached = client_->AttachDocument(
      header, standard_input ? std::cin : static_cast<std::istream&>(file), on_bytes, Hook());
  progress_.Clear();
  if (!attached.ok()) {
    if (interrupted_) return kExitInterrupted;
    return FailCall(attached.status(), absl::StrCat("cannot attach ", path), client_->address());
  }
  if (!options_.json) {
    std::fprintf(stderr, "%s: %s, %s tokens\n", SafeForTerminal(header.name()).c_str(),
                 ShortBytes(attached->bytes()).c_str(), ShortCount(attached->tokens()).c_str());
  }
  return kExitOk;
}

int ChatLoop::AskAll() {
  for (const std::string& question : options_.questions) {
    if (const int code = Ask(question); code != kExitOk) return code;
  }
  return kExitOk;
}

int ChatLoop::Interact() {
  if (terminal_.input && !options_.json) std::fprintf(stderr, "/help shows what you can type\n");
  std::string line;
  while (true) {
    if (terminal_.input) {
      std::fputs("> ", stderr);
      std::fflush(stderr);
    }
    if (!std::getline(std::cin, line)) break;
    if (HandleLine(line) == LineResult::kQuit) return EndCode();
  }
  if (terminal_.input) std::fputs("\n", stderr);
  return EndCode();
}

// A person was told of each failure; a script that pipes its lines in has only the exit code.
int ChatLoop::EndCode() const { return terminal_.input ? kExitOk : first_failure_; }

void ChatLoop::Remember(int exit_code) {
  if (first_failure_ == kExitOk && exit_code != kExitInterrupted) first_failure_ = exit_code;
}

ChatLoop::LineResult ChatLoop::HandleLine(const std::string& line) {
  if (line.find_first_not_of(" \t\r") == std::string::npos) return LineResult::kContinue;
  if (line[0] == '/') return HandleCommand(line);
  Remember(Ask(line));
  return LineResult::kContinue;
}

ChatLoop::LineResult ChatLoop::HandleCommand(const std::string& line) {
  const std::string command = line.substr(0, line.find(' '));
  const std::string argument = Argument(line);
  if (command == "/quit" || command == "/exit") return LineResult::kQuit;
  if (command == "/doc" && !argument.empty()) {
    Remember(AttachFile(argument));
  } else if (command == "/fork") {
    Remember(Fork(argument));
  } else if (command == "/report") {
    std::fputs(last_report_ ? ReportText(*last_report_).c_str() : "  no answer yet\n", stderr);
  } else {
    std::fputs(kHelp, stderr);
  }
  return LineResult::kContinue;
}

int ChatLoop::Fork(const std::string& new_id) {
  const absl::StatusOr<v1::Session> forked = client_->ForkSession(session_, new_id);
  if (!forked.ok()) {
    return FailCall(forked.status(), absl::StrCat("cannot fork ", session_), client_->address());
  }
  std::fprintf(stderr, "session %s (a fork of %s)\n", SafeForTerminal(forked->id()).c_str(),
               SafeForTerminal(session_).c_str());
  session_ = forked->id();
  return kExitOk;
}

int ChatLoop::Ask(const std::string& question) {
  v1::ChatRequest request;
  request.set_session_id(session_);
  request.set_message(question);
  *request.mutable_sampling() = options_.sampling;
  request.set_max_tokens(options_.max_tokens);
  request.mutable_stop()->Assign(options_.stop.begin(), options_.stop.end());
  request.set_attention(options_.attention);
  interrupted_ = false;
  const absl::StatusOr<v1::ChatFinished> finished = client_->Chat(
      request, [this](const v1::ChatEvent& event) { OnEvent(event); }, Hook());
  progress_.Clear();
  return ReportEnd(question, finished, interrupted_);
}

void ChatLoop::OnEvent(const v1::ChatEvent& event) {
  if (event.has_progress()) {
    const v1::TurnProgress& progress = event.progress();
    if (progress.phase() != v1::TURN_PHASE_DECODE) {
      progress_.Show(PhaseLabel(progress.phase()), progress.done(), progress.total());
    }
    return;
  }
  if (!options_.json) PrintText(event.text());
}

void ChatLoop::PrintText(const std::string& text) {
  if (text.empty()) return;
  progress_.Clear();
  const std::string shown = terminal_.output ? SafeForTerminal(text) : text;
  std::fwrite(shown.data(), 1, shown.size(), stdout);
  std::fflush(stdout);
  line_open_ = shown.back() != '\n';
}

int ChatLoop::ReportEnd(const std::string& question,
                        const absl::StatusOr<v1::ChatFinished>& finished, bool interrupted) {
  if (line_open_) std::fputs("\n", stdout);
  std::fflush(stdout);
  line_open_ = false;
  if (interrupted) {
    std::fputs("(stopped)\n", stderr);
    return kExitInterrupted;
  }
  if (!finished.ok()) return FailCall(finished.status(), "no answer", client_->address());
  last_report_ = finished->report();
  if (options_.json) {
    std::fputs(AnswerJson(session_, question, *finished).c_str(), stdout);
    std::fflush(stdout);
  }
  if (finished->reason() == v1::FINISH_REASON_CONTEXT_FULL) {
    std::fputs("(the conversation has reached the model's limit)\n", stderr);
  }
  if (options_.verbose) std::fputs(ReportText(finished->report()).c_str(), stderr);
  return kExitOk;
}

}  // namespace tailor
