// The conversation: documents in, questions in, answers out. What `tailor chat` does once its flags
// are read.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/cli/gateway_client.h"
#include "services/cli/interrupts.h"
#include "services/cli/terminal.h"

namespace tailor {

struct ChatOptions {
  std::string session{};  // empty: a new one
  std::string system{};
  std::vector<std::string> documents{};  // paths; "-": stdin
  std::vector<std::string> questions{};  // empty: interactive
  v1::AttentionMode attention = v1::ATTENTION_MODE_UNSPECIFIED;
  v1::SamplingParams sampling{};
  std::vector<std::string> stop{};
  int max_tokens = 0;  // 0: the server's default
  bool verbose = false;
  bool json = false;
};

class ChatLoop {
 public:
  ChatLoop(const ChatOptions& options, GatewayClient* client, Interrupts* interrupts);

  // Returns the exit code.
  int Run();

 private:
  enum class LineResult { kContinue, kQuit };

  int OpenSession();
  int CreateSession();
  int AttachDocuments();
  int AttachFile(const std::string& path);
  int AskAll();
  int Interact();
  LineResult HandleLine(const std::string& line);
  LineResult HandleCommand(const std::string& line);
  int Fork(const std::string& new_id);
  void Remember(int exit_code);
  int EndCode() const;
  int Ask(const std::string& question);
  void OnEvent(const v1::ChatEvent& event);
  void PrintText(const std::string& text);
  int ReportEnd(const std::string& question, const absl::StatusOr<v1::ChatFinished>& finished,
                bool interrupted);
  GatewayClient::CancelHookFn Hook();

  const ChatOptions& options_;
  GatewayClient* const client_;
  Interrupts* const interrupts_;
  const Terminal terminal_;
  ProgressLine progress_;
  std::optional<Interrupts::Scope> scope_;  // of the call that runs
  std::string session_;
  std::optional<v1::TurnReport> last_report_;
  bool line_open_ = false;  // stdout's last character was no newline
  bool interrupted_ = false;
  int first_failure_ = 0;  // exit code of the first line that failed
};

}  // namespace tailor
