#include "tests/services/gateway/chat_fixture.h"

#include <grpc/grpc.h>
#include <grpcpp/generic/generic_stub.h>

namespace tailor {

ChatFixture::ChatFixture() {
  // Never shut down: when the last object goes after a large message, gRPC 1.51 waits 10 s for a poller.
  static const bool kKeepsRunning = (grpc_init(), true);
  (void)kKeepsRunning;
  std::string pattern = ::testing::TempDir() + "gateway_XXXXXX";
  dir_ = mkdtemp(pattern.data());
  Restart();
}

ChatFixture::~ChatFixture() {
  server_.reset();
  service_.reset();
  sessions_.reset();
  std::filesystem::remove_all(dir_);
}

void ChatFixture::Restart() {
  if (server_ != nullptr) server_->Shutdown(0);
  server_.reset();
  service_.reset();
  sessions_.reset();
  auto sessions = SessionDirectory::Open(dir_ / "sessions.db", Durability::kProcess);
  ASSERT_TRUE(sessions.ok()) << sessions.status();
  sessions_ = *std::move(sessions);
  client_ = std::make_unique<DecoderClient>(
      DecoderClientOptions{.address = decoder_.address(), .resume_timeout_ms = resume_timeout_ms_});
  service_ = std::make_unique<ChatService>(
      TurnOptions{.context_tokens = kContextTokens, .default_max_tokens = 50},
      TurnParts{.sessions = sessions_.get(),
                .decoder = client_.get(),
                .tokenizer = text_.tokenizer.get(),
                .chat = text_.chat.get(),
                .tenant = "default"});
  auto server = GrpcServer::Start({.address = "127.0.0.1:0", .services = {service_.get()}});
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  server_->SetHealthy(true);
  channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
  stub_ = v1::ChatService::NewStub(channel_);
}

ChatFixture::ChatResult ChatFixture::Chat(const v1::ChatRequest& request) {
  grpc::ClientContext context;
  auto reader = stub_->Chat(&context, request);
  ChatResult result;
  for (v1::ChatEvent event; reader->Read(&event);) {
    EXPECT_EQ(result.finished_events, 0) << "something came after the last event";
    result.progress_events += event.has_progress();
    result.streamed += event.text();
    if (event.has_finished()) {
      ++result.finished_events;
      result.finished = event.finished();
    }
  }
  result.status = reader->Finish();
  return result;
}

ChatFixture::ChatResult ChatFixture::Chat(const std::string& session, const std::string& message) {
  v1::ChatRequest request;
  request.set_session_id(session);
  request.set_message(message);
  return Chat(request);
}

void ChatFixture::NextAnswer(const std::string& text) {
  std::vector<TokenId> ids = ByteIds(text);
  ids.push_back(kTinyEnd);
  decoder_.NextAnswer(ids, v1::FINISH_REASON_STOP);
}

grpc::Status ChatFixture::Create(const std::string& id, v1::Session* session,
                                 v1::CreateSessionRequest request) {
  grpc::ClientContext context;
  request.set_id(id);
  v1::Session ignored;
  return stub_->CreateSession(&context, request, session == nullptr ? &ignored : session);
}

grpc::Status ChatFixture::Attach(const std::string& id, const std::string& name,
                                 const std::vector<std::string>& chunks,
                                 v1::AttachDocumentResponse* response) {
  grpc::ClientContext context;
  v1::AttachDocumentResponse ignored;
  auto writer = stub_->AttachDocument(&context, response == nullptr ? &ignored : response);
  v1::AttachDocumentRequest part;
  part.mutable_header()->set_session_id(id);
  part.mutable_header()->set_name(name);
  bool open = writer->Write(part);
  for (const std::string& chunk : chunks) {
    part.set_chunk(chunk);
    open = open && writer->Write(part);
  }
  writer->WritesDone();
  return writer->Finish();
}

grpc::Status ChatFixture::Fork(const std::string& id, const std::string& new_id,
                               v1::Session* session) {
  grpc::ClientContext context;
  v1::ForkSessionRequest request;
  request.set_session_id(id);
  request.set_new_id(new_id);
  v1::Session ignored;
  return stub_->ForkSession(&context, request, session == nullptr ? &ignored : session);
}

grpc::Status ChatFixture::Delete(const std::string& id) {
  grpc::ClientContext context;
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  v1::DeleteSessionResponse response;
  return stub_->DeleteSession(&context, request, &response);
}

v1::GetSessionResponse ChatFixture::Get(const std::string& id) {
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_session_id(id);
  v1::GetSessionResponse response;
  const grpc::Status status = stub_->GetSession(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

grpc::Status ChatFixture::GetStatus(const std::string& id) {
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_session_id(id);
  v1::GetSessionResponse response;
  return stub_->GetSession(&context, request, &response);
}

std::vector<std::string> ChatFixture::Transcript(const std::string& id) {
  std::vector<std::string> lines;
  const v1::GetSessionResponse response = Get(id);
  for (const v1::Message& message : response.messages()) {
    lines.push_back(v1::Message::Role_Name(message.role()).substr(5) + ": " + message.text());
  }
  return lines;
}

std::string ChatFixture::RawCall(const std::string& method, const std::string& request) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  grpc::Slice slice(request);
  const grpc::ByteBuffer sent(&slice, 1);
  grpc::ByteBuffer received;
  auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  std::string answer;
  bool ok = wait();
  if (ok) {
    call->WriteLast(sent, grpc::WriteOptions(), nullptr);
    ok = wait();
  }
  if (ok) {
    call->Read(&received, nullptr);
    ok = wait();
  }
  std::vector<grpc::Slice> slices;
  if (ok && received.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) {
      answer.append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  queue.Shutdown();
  while (wait()) {
  }
  return answer;
}

}  // namespace tailor
