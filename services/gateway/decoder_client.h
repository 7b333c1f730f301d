// A worker as the gateway sees it: one turn's tokens, in order and each once, even when the worker
// dies on the way: the turn is issued again with the tokens received so far as history.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/types.h"
#include "services/gateway/generate_stream.h"
#include "tailor/v1/decoder.grpc.pb.h"

namespace tailor {

struct DecoderClientOptions {
  std::string address;                 // gRPC target of the worker
  int64_t control_timeout_ms = 10000;  // of Cancel, Fork and Remove
  // How long a turn waits for a dead worker, from its death or from the last token, whichever is
  // later. Longer survives a slower reload of the model; shorter tells the client sooner.
  int64_t resume_timeout_ms = 60000;
};

// What the receiver of a turn wants next.
enum class TurnControl { kContinue, kStop };

struct TurnCallbacks {
  std::function<TurnControl(const v1::TurnProgress&)> on_progress;
  std::function<TurnControl(TokenId)> on_token;
  std::function<TurnControl()> on_wait;  // asked again and again while nothing comes
};

class DecoderClient {
 public:
  explicit DecoderClient(const DecoderClientOptions& options);

  // Runs one turn to its end. kStop from a callback cancels it: the result is then CANCELLED. The
  // report is always filled: the worker's own, or where one died with it, what TurnReport says of
  // resumed turns. Errors: the worker's; Unavailable when it did not come back in time.
  absl::StatusOr<v1::GenerateFinished> Generate(v1::GenerateRequest request,
                                                const TurnCallbacks& callbacks);
  absl::Status Fork(const std::string& tenant, const std::string& parent, const std::string& child);
  absl::Status Remove(const std::string& tenant, const std::string& sequence);

 private:
  // One call to the worker. `received` grows with every token that was passed on.
  absl::StatusOr<v1::GenerateFinished> GenerateOnce(const v1::GenerateRequest& request,
                                                    const TurnCallbacks& callbacks,
                                                    std::vector<TokenId>* received);
  // Has the worker end the turn, and waits until it has: the next turn would be refused before.
  v1::GenerateFinished StopTurn(const v1::SequenceKey& sequence, GenerateStream* stream);

  const DecoderClientOptions options_;
  std::unique_ptr<v1::DecoderService::Stub> stub_;
};

}  // namespace tailor
