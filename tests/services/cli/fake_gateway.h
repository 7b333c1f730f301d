// A ChatService with scripted answers, served in the test's process.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "services/grpc_server.h"
#include "tailor/v1/chat.grpc.pb.h"

namespace tailor {

class FakeGateway final : public v1::ChatService::Service {
 public:
  FakeGateway() {
    auto server = GrpcServer::Start({.address = "127.0.0.1:0", .services = {this}});
    if (!server.ok()) abort();
    server_ = *std::move(server);
  }
  ~FakeGateway() override { server_.reset(); }
  const std::string& address() const { return server_->address(); }

  // --- what it does ---
  std::vector<std::string> pieces = {"Hello", ", ", "world"};  // of every answer
  v1::TurnReport report;
  std::string said = "a question";  // of every session
  bool hang_after_text = false;  // until the client cancels
  grpc::Status chat_status;      // instead of an answer, when not OK

  // --- what it saw ---
  std::vector<v1::ChatRequest> chats() { return Locked(chats_); }
  std::map<std::string, std::string> documents() { return Locked(documents_); }  // name -> text
  bool cancelled() { return Locked(cancelled_); }
  std::string authorization() { return Locked(authorization_); }

  // --- the service ---
  grpc::Status CreateSession(grpc::ServerContext* context, const v1::CreateSessionRequest* request,
                             v1::Session* response) override {
    const std::lock_guard lock(mutex_);
    const auto& metadata = context->client_metadata();
    if (const auto it = metadata.find("authorization"); it != metadata.end()) {
      authorization_ = std::string(it->second.data(), it->second.size());
    }
    const std::string id =
        request->id().empty() ? "s" + std::to_string(sessions_.size() + 1) : request->id();
    v1::Session& session = sessions_[id];
    session.set_id(id);
    session.set_title("a title \x1b[31m");
    session.set_updated_unix_ms(static_cast<int64_t>(sessions_.size()));
    *response = session;
    return grpc::Status::OK;
  }
  grpc::Status GetSession(grpc::ServerContext*, const v1::GetSessionRequest* request,
                          v1::GetSessionResponse* response) override {
    const std::lock_guard lock(mutex_);
    const auto it = sessions_.find(request->session_id());
    if (it == sessions_.end()) return NotFound(request->session_id());
    *response->mutable_session() = it->second;
    v1::Message* message = response->add_messages();
    message->set_role(v1::Message::ROLE_USER);
    message->set_text(said);
    return grpc::Status::OK;
  }
  grpc::Status ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override {
    const std::lock_guard lock(mutex_);
    // One a page, so that the client has to ask for all of them.
    auto it = sessions_.upper_bound(request->page_token());
    if (it == sessions_.end()) return grpc::Status::OK;
    *response->add_sessions() = it->second;
    if (std::next(it) != sessions_.end()) response->set_next_page_token(it->first);
    return grpc::Status::OK;
  }
  grpc::Status ForkSession(grpc::ServerContext*, const v1::ForkSessionRequest* request,
                           v1::Session* response) override {
    const std::lock_guard lock(mutex_);
    if (!sessions_.contains(request->session_id())) return NotFound(request->session_id());
    response->set_id(request->new_id().empty() ? "forked" : request->new_id());
    response->set_parent_id(request->session_id());
    sessions_[response->id()] = *response;
    return grpc::Status::OK;
  }
  grpc::Status DeleteSession(grpc::ServerContext*, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse*) override {
    const std::lock_guard lock(mutex_);
    return sessions_.erase(request->session_id()) > 0 ? grpc::Status::OK
                                                      : NotFound(request->session_id());
  }
  grpc::Status AttachDocument(grpc::ServerContext*,
                              grpc::ServerReader<v1::AttachDocumentRequest>* reader,
                              v1::AttachDocumentResponse* response) override {
    v1::AttachDocumentRequest request;
    if (!reader->Read(&request) || !request.has_header()) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "no header"};
    }
    const std::string name = request.header().name();
    std::string text;
    while (reader->Read(&request)) text += request.chunk();
    response->set_bytes(static_cast<int64_t>(text.size()));
    response->set_tokens(7);
    const std::lock_guard lock(mutex_);
    documents_[name] = text;
    return grpc::Status::OK;
  }
  grpc::Status Chat(grpc::ServerContext* context, const v1::ChatRequest* request,
                    grpc::ServerWriter<v1::ChatEvent>* writer) override {
    {
      const std::lock_guard lock(mutex_);
      chats_.push_back(*request);
    }
    if (!chat_status.ok()) return chat_status;
    v1::ChatEvent event;
    event.mutable_progress()->set_phase(v1::TURN_PHASE_PREFILL);
    event.mutable_progress()->set_done(1);
    event.mutable_progress()->set_total(2);
    writer->Write(event);
    std::string whole;
    for (const std::string& piece : pieces) {
      event.set_text(piece);
      writer->Write(event);
      whole += piece;
    }
    while (hang_after_text && !context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (hang_after_text) {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
      return grpc::Status::CANCELLED;
    }
    event.mutable_finished()->set_text(whole);
    event.mutable_finished()->set_reason(v1::FINISH_REASON_STOP);
    event.mutable_finished()->set_session_tokens(42);
    *event.mutable_finished()->mutable_report() = report;
    writer->Write(event);
    return grpc::Status::OK;
  }

 private:
  static grpc::Status NotFound(const std::string& id) {
    return {grpc::StatusCode::NOT_FOUND, "there is no session " + id};
  }
  template <typename T>
  T Locked(const T& value) {
    const std::lock_guard lock(mutex_);
    return value;
  }

  std::mutex mutex_;
  // Guarded by mutex_:
  std::map<std::string, v1::Session> sessions_;
  std::vector<v1::ChatRequest> chats_;
  std::map<std::string, std::string> documents_;
  std::string authorization_;
  bool cancelled_ = false;

  std::unique_ptr<GrpcServer> server_;
};

}  // namespace tailor
