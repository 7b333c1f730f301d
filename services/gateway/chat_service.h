// ChatService: parse, call, translate. Sessions, documents and turns live in their own files.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "services/gateway/turn.h"
#include "tailor/v1/chat.grpc.pb.h"

namespace tailor {

// Sessions that run a turn, or are being changed: one at a time each. Thread-safe.
class BusySessions {
 public:
  // Holds a session until destroyed.
  class Hold {
   public:
    Hold(BusySessions* owner, std::string id) : owner_(owner), id_(std::move(id)) {}
    Hold(Hold&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), id_(std::move(other.id_)) {}
    Hold& operator=(Hold&&) = delete;
    ~Hold();
    // Says that it will soon go: others wait for it instead of being refused.
    void SetEnding();

   private:
    BusySessions* owner_;
    std::string id_;
  };
  // Waits for a hold that is ending. Errors: FailedPrecondition "session ... already runs a turn".
  absl::StatusOr<Hold> Take(const std::string& id);

 private:
  enum class State { kHeld, kEnding };
  std::mutex mutex_;
  std::condition_variable released_;
  std::map<std::string, State> held_;  // guarded by mutex_
};

class ChatService final : public v1::ChatService::Service {
 public:
  ChatService(const TurnOptions& options, const TurnParts& parts)
      : options_(options), parts_(parts) {}

  grpc::Status CreateSession(grpc::ServerContext*, const v1::CreateSessionRequest* request,
                             v1::Session* response) override;
  grpc::Status AttachDocument(grpc::ServerContext*,
                              grpc::ServerReader<v1::AttachDocumentRequest>* reader,
                              v1::AttachDocumentResponse* response) override;
  grpc::Status Chat(grpc::ServerContext* context, const v1::ChatRequest* request,
                    grpc::ServerWriter<v1::ChatEvent>* writer) override;
  grpc::Status ForkSession(grpc::ServerContext*, const v1::ForkSessionRequest* request,
                           v1::Session* response) override;
  grpc::Status GetSession(grpc::ServerContext*, const v1::GetSessionRequest* request,
                          v1::GetSessionResponse* response) override;
  grpc::Status ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override;
  grpc::Status DeleteSession(grpc::ServerContext*, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse* response) override;

 private:
  absl::Status RespondWith(const std::string& id, v1::Session* response);
  absl::StatusOr<int64_t> Attach(const std::string& session_id, const std::string& name,
                                 std::string text);
  absl::Status Fork(const v1::ForkSessionRequest& request, const std::string& child_id);

  const TurnOptions options_;
  const TurnParts parts_;
  BusySessions busy_;
};

}  // namespace tailor
