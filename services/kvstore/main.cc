// tailor-kvstore: one per node. Builds the parts, joins them, waits for the signal to end.
#include <sys/stat.h>

#include <cstdio>
#include <memory>
#include <string>

#include "common/log.h"
#include "common/status.h"
#include "kvstore/page_store.h"
#include "kvstore/transport/served_page_store.h"
#include "kvstore/transport/shm_server.h"
#include "services/exit_code.h"
#include "services/grpc_server.h"
#include "services/kvstore/kv_service.h"
#include "services/kvstore/store_options.h"
#include "services/process_life.h"

namespace tailor {
namespace {

constexpr int64_t kGraceMs = 2000;

int Fail(const absl::Status& why) {
  std::fprintf(stderr, "tailor-kvstore: %s\n", std::string(why.message()).c_str());
  if (why.code() == absl::StatusCode::kResourceExhausted) return kExitNoMemory;
  if (why.code() == absl::StatusCode::kAlreadyExists) return kExitPortBusy;
  return why.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitRuntime;
}

ShmServerOptions ShmOptionsOf(const StoreOptions& options) {
  ShmServerOptions result;
  result.socket_path = options.socket;
  result.selection_threads = options.selection_threads;
  result.spin_us = options.spin_us;
  return result;
}

int Run(const StoreOptions& options) {
  auto store = PageStore::Create({.arena_bytes = options.arena_bytes});
  if (!store.ok()) return Fail(store.status());
  ServedPageStore served(*store);
  // The data plane first: whoever reaches the control plane may connect to it.
  auto data = ShmServer::Start(&served, ShmOptionsOf(options));
  if (!data.ok()) return Fail(data.status());
  KvService service(&served);
  auto control = GrpcServer::Start({.address = options.listen, .services = {&service}});
  if (!control.ok()) return Fail(control.status());
  (*control)->SetHealthy(true);
  spdlog::info("ready: control {}, data {}, arena {} bytes in {}, epoch {}", (*control)->address(),
               options.socket, (*store)->arena().bytes(), ToString((*store)->arena().backing()),
               served.epoch());
  AnnounceReady(options.ready_fd);
  spdlog::info("signal {}: ending", AwaitStopSignal());
  (*control)->Shutdown(kGraceMs);  // the data plane ends after it, with the leases
  return kExitOk;
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::BlockStopSignals();
  const tailor::ParsedStoreCommandLine command = tailor::ParseStoreCommandLine(argc, argv);
  if (!command.options.has_value()) return command.exit_code;
  tailor::SetUpLogging("kvstore", command.options->log_level);
  if (command.options->die_with_parent) tailor::DieWithParent();
  umask(S_IRWXG | S_IRWXO);  // sockets are for this user
  return tailor::Run(*command.options);
}
