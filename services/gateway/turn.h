// One turn, end to end: transcript -> ids -> worker -> text -> transcript.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/gateway/decoder_client.h"
#include "services/gateway/prompt.h"
#include "services/gateway/session_directory.h"
#include "tailor/v1/chat.pb.h"

namespace tailor {

struct TurnOptions {
  int64_t context_tokens = 0;        // the longest history with its answer
  int32_t default_max_tokens = 512;  // of an answer whose request does not say
};

// The parts a turn works with; they outlive it.
struct TurnParts {
  SessionDirectory* sessions = nullptr;
  DecoderClient* decoder = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat = nullptr;
  std::string tenant;
};

// Who the turn is for. False from either: nobody listens any more, and the turn is cancelled.
struct TurnListener {
  std::function<bool(const v1::ChatEvent&)> write;
  std::function<bool()> is_there;  // asked while there is nothing to write
};

// Runs the turn and leaves its transcript durable before it returns. A cancelled turn (also one
// whose client went away) keeps its text so far. After an error the session is as it was. Errors:
// NotFound, InvalidArgument (text, limits), ResourceExhausted (too long: the message says by how
// much), and the worker's.
absl::StatusOr<v1::ChatFinished> RunTurn(const v1::ChatRequest& request, const TurnOptions& options,
                                         const TurnParts& parts, const TurnListener& listener);

}  // namespace tailor
