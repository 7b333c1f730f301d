// A worker of a store for tests to kill: holds a sequence of two sealed pages and five tokens, with
// four more pages reserved. Usage: holding_worker DATA_SOCKET CONTROL_ADDRESS
#include <unistd.h>

#include <cstdio>

#include "kvstore/client/shm_kv_client.h"
#include "services/kv_control/grpc_kv_control.h"
#include "tests/kvstore/client/written_sequence.h"

namespace tailor {
namespace {

absl::Status Hold(const char* data_socket, const char* control_address) {
  ShmKvClientOptions options;
  options.socket_path = data_socket;
  TS_ASSIGN_OR_RETURN(
      const auto client,
      ShmKvClient::Connect(options, MakeGrpcKvControl({.address = control_address})));
  TS_ASSIGN_OR_RETURN(const PoolView pool, client->OpenPool(SmallPool()));
  TS_ASSIGN_OR_RETURN(const WrittenSequence sequence,
                      WriteSequence(*client, pool, "a", 2 * kPageTokens + 5, 1));
  TS_RETURN_IF_ERROR(client->ReservePages(sequence.handle, 4).status());
  for (;;) ::pause();
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::fprintf(stderr, "%s\n", tailor::Hold(argv[1], argv[2]).ToString().c_str());
  return 1;
}
