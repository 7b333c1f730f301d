// A gateway on a loopback port in front of a scripted worker, with a database of its own.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "services/gateway/chat_service.h"
#include "services/grpc_server.h"
#include "tests/services/gateway/fake_decoder.h"
#include "tests/support/tiny_tokenizer.h"

namespace tailor {

class ChatFixture : public ::testing::Test {
 protected:
  static constexpr int64_t kContextTokens = 1000;

  ChatFixture();
  ~ChatFixture() override;

  // Ends the gateway, and starts another on the same database.
  void Restart();

  struct ChatResult {
    grpc::Status status;
    std::string streamed;  // all text events together
    int progress_events = 0;
    int finished_events = 0;
    v1::ChatFinished finished;
  };
  ChatResult Chat(const v1::ChatRequest& request);
  ChatResult Chat(const std::string& session, const std::string& message);
  // The worker's next answer is this text, ended as a model ends one.
  void NextAnswer(const std::string& text);

  grpc::Status Create(const std::string& id, v1::Session* session = nullptr,
                      v1::CreateSessionRequest request = {});
  grpc::Status Attach(const std::string& id, const std::string& name,
                      const std::vector<std::string>& chunks,
                      v1::AttachDocumentResponse* response = nullptr);
  grpc::Status Fork(const std::string& id, const std::string& new_id,
                    v1::Session* session = nullptr);
  grpc::Status Delete(const std::string& id);
  v1::GetSessionResponse Get(const std::string& id);
  grpc::Status GetStatus(const std::string& id);
  // The transcript as "role: text" lines.
  std::vector<std::string> Transcript(const std::string& id);

  // One raw call: what a probe or grpcurl sends. Empty when it fails.
  std::string RawCall(const std::string& method, const std::string& request);

  const TinyText text_;
  std::filesystem::path dir_;
  FakeDecoder decoder_;
  int64_t resume_timeout_ms_ = 60000;

  std::unique_ptr<DecoderClient> client_;
  std::unique_ptr<SessionDirectory> sessions_;
  std::unique_ptr<ChatService> service_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ChatService::Stub> stub_;
};

}  // namespace tailor
