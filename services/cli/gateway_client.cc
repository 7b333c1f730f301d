#include "services/cli/gateway_client.h"

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "common/status.h"
#include "services/status_grpc.h"

namespace tailor {
namespace {

constexpr std::chrono::seconds kShortCall{30};
constexpr size_t kChunkBytes = 64 << 10;
constexpr int kPageSize = 500;

class HookScope {
 public:
  HookScope(const GatewayClient::CancelHookFn& hook, grpc::ClientContext* context) : hook_(hook) {
    if (hook_) hook_([context] { context->TryCancel(); });
  }
  ~HookScope() {
    if (hook_) hook_(nullptr);
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;

 private:
  const GatewayClient::CancelHookFn& hook_;
};

// A transcript holds whole documents: no limit of gRPC's own.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

GatewayClient::GatewayClient(std::string address, std::string api_key)
    : address_(std::move(address)),
      api_key_(std::move(api_key)),
      stub_(v1::ChatService::NewStub(MakeChannel(address_))) {}

void GatewayClient::Prepare(grpc::ClientContext* context) const {
  if (!api_key_.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", api_key_));
}

void GatewayClient::PrepareShort(grpc::ClientContext* context) const {
  Prepare(context);
  context->set_deadline(std::chrono::system_clock::now() + kShortCall);
}

absl::StatusOr<v1::Session> GatewayClient::CreateSession(const v1::CreateSessionRequest& request) {
  grpc::ClientContext context;
  PrepareShort(&context);
  v1::Session session;
  TS_RETURN_IF_ERROR(FromGrpc(stub_->CreateSession(&context, request, &session)));
  return session;
}

absl::StatusOr<v1::GetSessionResponse> GatewayClient::GetSession(const std::string& id) {
  grpc::ClientContext context;
  PrepareShort(&context);
  v1::GetSessionRequest request;
  request.set_session_id(id);
  v1::GetSessionResponse response;
  TS_RETURN_IF_ERROR(FromGrpc(stub_->GetSession(&context, request, &response)));
  return response;
}

absl::StatusOr<std::vector<v1::Session>> GatewayClient::ListSessions() {
  std::vector<v1::Session> sessions;
  v1::ListSessionsRequest request;
  request.set_page_size(kPageSize);
  do {
    grpc::ClientContext context;
    PrepareShort(&context);
    v1::ListSessionsResponse response;
    TS_RETURN_IF_ERROR(FromGrpc(stub_->ListSessions(&context, request, &response)));
    sessions.insert(sessions.end(), response.sessions().begin(), response.sessions().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return sessions;
}

absl::StatusOr<v1::Session> GatewayClient::ForkSession(const std::string& id,
                                                       const std::string& new_id) {
  grpc::ClientContext context;
  PrepareShort(&context);
  v1::ForkSessionRequest request;
  request.set_session_id(id);
  request.set_new_id(new_id);
  v1::Session session;
  TS_RETURN_IF_ERROR(FromGrpc(stub_->ForkSession(&context, request, &session)));
  return session;
}

absl::Status GatewayClient::DeleteSession(const std::string& id) {
  grpc::ClientContext context;
  PrepareShort(&context);
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  v1::DeleteSessionResponse response;
  return FromGrpc(stub_->DeleteSession(&context, request, &response));
}

absl::StatusOr<v1::AttachDocumentResponse> GatewayClient::AttachDocument(
    const v1::AttachDocumentHeader& header, std::istream& text, const BytesFn& on_bytes,
    const CancelHookFn& hook) {
  grpc::ClientContext context;
  Prepare(&context);
  const HookScope scope(hook, &context);
  v1::AttachDocumentResponse response;
  auto writer = stub_->AttachDocument(&context, &response);
  v1::AttachDocumentRequest request;
  *request.mutable_header() = header;
  bool open = writer->Write(request);
  int64_t done_bytes = 0;
  std::string buffer(kChunkBytes, '\0');
  while (open && (text.read(buffer.data(), kChunkBytes) || text.gcount() > 0)) {
    request.set_chunk(buffer.data(), static_cast<size_t>(text.gcount()));
    open = writer->Write(request);
    done_bytes += text.gcount();
    on_bytes(done_bytes);
  }
  if (text.bad()) {  // half a document must not pass for a whole one
    context.TryCancel();
    (void)writer->Finish();
    return absl::DataLossError(
        absl::StrCat("reading ", header.name(), " failed after ", done_bytes, " bytes"));
  }
  if (open) writer->WritesDone();
  TS_RETURN_IF_ERROR(FromGrpc(writer->Finish()));
  return response;
}

absl::StatusOr<v1::ChatFinished> GatewayClient::Chat(const v1::ChatRequest& request,
                                                     const EventFn& on_event,
                                                     const CancelHookFn& hook) {
  grpc::ClientContext context;
  Prepare(&context);
  const HookScope scope(hook, &context);
  auto reader = stub_->Chat(&context, request);
  v1::ChatEvent event;
  std::optional<v1::ChatFinished> finished;
  while (reader->Read(&event)) {
    if (event.has_finished()) {
      finished = event.finished();
    } else {
      on_event(event);
    }
  }
  TS_RETURN_IF_ERROR(FromGrpc(reader->Finish()));
  if (!finished.has_value()) {
    return absl::InternalError("the server ended the answer without its last message");
  }
  return *std::move(finished);
}

}  // namespace tailor
