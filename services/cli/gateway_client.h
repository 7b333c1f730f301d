// The command line's side of the public API: one method a call, statuses translated.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <istream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tailor/v1/chat.grpc.pb.h"

namespace tailor {

class GatewayClient {
 public:
  // Called before a long call starts, with what cancels it from any thread; and with nullptr after.
  using CancelHookFn = std::function<void(std::function<void()> cancel)>;
  using EventFn = std::function<void(const v1::ChatEvent&)>;
  using BytesFn = std::function<void(int64_t done_bytes)>;

  GatewayClient(std::string address, std::string api_key);

  // Short calls: 30 s.
  absl::StatusOr<v1::Session> CreateSession(const v1::CreateSessionRequest& request);
  absl::StatusOr<v1::GetSessionResponse> GetSession(const std::string& id);
  absl::StatusOr<std::vector<v1::Session>> ListSessions();  // all pages
  absl::StatusOr<v1::Session> ForkSession(const std::string& id, const std::string& new_id);
  absl::Status DeleteSession(const std::string& id);

  // As long as they take. Errors: Cancelled by the hook, DataLoss when `text` cannot be read to its
  // end, and the server's.
  absl::StatusOr<v1::AttachDocumentResponse> AttachDocument(const v1::AttachDocumentHeader& header,
                                                            std::istream& text,
                                                            const BytesFn& on_bytes,
                                                            const CancelHookFn& hook);
  // Returns the last event's content. Errors besides: Internal when the stream ends without it.
  absl::StatusOr<v1::ChatFinished> Chat(const v1::ChatRequest& request, const EventFn& on_event,
                                        const CancelHookFn& hook);

  const std::string& address() const { return address_; }

 private:
  void Prepare(grpc::ClientContext* context) const;
  void PrepareShort(grpc::ClientContext* context) const;

  const std::string address_, api_key_;
  const std::unique_ptr<v1::ChatService::Stub> stub_;
};

}  // namespace tailor
