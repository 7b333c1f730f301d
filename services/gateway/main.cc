// tailor-gateway: sessions and text, in front of a worker.
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>

#include "common/log.h"
#include "common/model_file/model_file.h"
#include "common/status.h"
#include "services/exit_code.h"
#include "services/gateway/chat_service.h"
#include "services/gateway/gateway_options.h"
#include "services/grpc_server.h"
#include "services/process_life.h"

namespace tailor {
namespace {

constexpr int64_t kGraceMs = 2000;
constexpr int kMaxMessageBytes = 16 << 20;

int Fail(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "tailor-gateway: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

int Run(const GatewayOptions& options) {
  const auto model = ModelFile::Open(options.model);
  if (!model.ok()) return Fail(model.status(), kExitBadModel);
  const auto tokenizer = Tokenizer::Create((*model)->tokenizer());
  if (!tokenizer.ok()) return Fail(tokenizer.status(), kExitBadModel);
  const auto chat = ChatTemplate::Create((*model)->tokenizer(), **tokenizer);
  if (!chat.ok()) return Fail(chat.status(), kExitBadModel);
  const auto sessions = SessionDirectory::Open(
      options.database, options.durable_power ? Durability::kPower : Durability::kProcess);
  if (!sessions.ok()) return Fail(sessions.status(), kExitRuntime);
  DecoderClient decoder(
      {.address = options.worker, .resume_timeout_ms = options.resume_timeout_ms});
  const int64_t model_tokens = (*model)->hyperparameters().context_tokens;
  const int64_t context_tokens =
      options.context_tokens > 0 ? std::min(options.context_tokens, model_tokens) : model_tokens;
  ChatService service(
      {.context_tokens = context_tokens, .default_max_tokens = options.default_max_tokens},
      {.sessions = sessions->get(),
       .decoder = &decoder,
       .tokenizer = tokenizer->get(),
       .chat = &*chat,
       .tenant = "default"});
  const auto server = GrpcServer::Start(
      {.address = options.listen, .services = {&service}, .max_message_bytes = kMaxMessageBytes});
  if (!server.ok()) {
    return Fail(server.status(),
                absl::IsAlreadyExists(server.status()) ? kExitPortBusy : kExitUsage);
  }
  if (options.insecure_listen) spdlog::warn("serving plain text, without keys, to other machines");
  (*server)->SetHealthy(true);
  spdlog::info("ready on {}", (*server)->address());
  AnnounceReady(options.ready_fd);
  const int signal_number = AwaitStopSignal();
  spdlog::info("signal {}: ending", signal_number);
  (*server)->SetHealthy(false);
  (*server)->Shutdown(kGraceMs);
  return kExitOk;
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::BlockStopSignals();
  const auto command = tailor::ParseGatewayCommandLine(argc, argv);
  if (!command.options.has_value()) return command.exit_code;
  tailor::SetUpLogging("gateway", command.options->log_level);
  if (command.options->die_with_parent) tailor::DieWithParent();
  umask(S_IRWXG | S_IRWXO);  // transcripts are for this user
  return tailor::Run(*command.options);
}
