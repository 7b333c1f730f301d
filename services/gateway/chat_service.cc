#include "services/gateway/chat_service.h"

#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "absl/strings/numbers.h"
#include "common/log.h"
#include "common/status.h"
#include "services/gateway/document_upload.h"
#include "services/gateway/prompt.h"
#include "services/status_grpc.h"

namespace tailor {
namespace {

constexpr int32_t kDefaultPage = 100, kMaxPage = 1000;
constexpr size_t kMaxIdBytes = 64, kMaxTitleBytes = 256, kMaxSystemBytes = 64 << 10;
// What a document must leave of the model's context, or no message could follow it: the template's
// own tokens, a question and a short answer.
constexpr int64_t kLeastRoomTokens = 64;

// How long a call waits for a turn whose client has gone: the worker ends it between two units of
// work.
constexpr std::chrono::seconds kEndingPatience{10};

// 128 random bits: ids of others cannot be guessed.
std::string RandomId() {
  std::array<unsigned char, 16> bytes;
  TS_CHECK(RAND_bytes(bytes.data(), bytes.size()) == 1);
  std::string id;
  for (const unsigned char byte : bytes) {
    id.push_back("0123456789abcdef"[byte >> 4]);
    id.push_back("0123456789abcdef"[byte & 15]);
  }
  return id;
}

absl::StatusOr<std::string> NewId(const std::string& wanted) {
  if (wanted.empty()) return RandomId();
  const bool plain = std::all_of(wanted.begin(), wanted.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
  if (plain && wanted.size() <= kMaxIdBytes) return wanted;
  return absl::InvalidArgumentError(absl::StrCat("session id has ", wanted.size(), " bytes, limit ",
                                                 kMaxIdBytes, " of [A-Za-z0-9._-]"));
}

absl::StatusOr<SessionRecord> ParseCreate(const v1::CreateSessionRequest& request) {
  SessionRecord session;
  TS_ASSIGN_OR_RETURN(session.id, NewId(request.id()));
  if (request.title().size() > kMaxTitleBytes || request.system().size() > kMaxSystemBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "title has ", request.title().size(), " bytes and system ", request.system().size(),
        ", limits ", kMaxTitleBytes, " and ", kMaxSystemBytes));
  }
  if (!v1::AttentionMode_IsValid(request.attention())) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention is ", static_cast<int>(request.attention()), ", limit 0..2"));
  }
  session.title = request.title();
  session.system = request.system();
  session.attention = static_cast<SessionAttention>(request.attention());
  return session;
}

void WriteSession(const SessionRecord& from, v1::Session* to) {
  to->set_id(from.id);
  to->set_title(from.title);
  to->set_created_unix_ms(from.created_unix_ms);
  to->set_updated_unix_ms(from.updated_unix_ms);
  to->set_tokens(from.tokens);
  to->set_messages(from.entries);
  to->set_attention(static_cast<v1::AttentionMode>(from.attention));
  to->set_parent_id(from.parent_id);
  to->mutable_documents()->Add(from.documents.begin(), from.documents.end());
}

v1::Message::Role RoleOf(EntryRole role) {
  switch (role) {
    case EntryRole::kSystem:
      return v1::Message::ROLE_SYSTEM;
    case EntryRole::kUser:
      return v1::Message::ROLE_USER;
    case EntryRole::kAssistant:
      return v1::Message::ROLE_ASSISTANT;
    case EntryRole::kDocument:
      return v1::Message::ROLE_DOCUMENT;
  }
  return v1::Message::ROLE_UNSPECIFIED;
}

// "CREATED.ID" of the last session of a page.
std::string PageToken(const SessionRecord& last) {
  return absl::StrCat(last.created_unix_ms, ".", last.id);
}

absl::StatusOr<std::optional<SessionCursor>> ParsePageToken(const std::string& token) {
  if (token.empty()) return std::nullopt;
  const size_t dot = token.find('.');
  SessionCursor after;
  if (dot == std::string::npos || !absl::SimpleAtoi(token.substr(0, dot), &after.created_unix_ms)) {
    return absl::InvalidArgumentError("page_token is not from an answer of this server");
  }
  after.id = token.substr(dot + 1);
  return after;
}

}  // namespace

BusySessions::Hold::~Hold() {
  if (owner_ == nullptr) return;
  const std::lock_guard lock(owner_->mutex_);
  owner_->held_.erase(id_);
  owner_->released_.notify_all();
}

void BusySessions::Hold::SetEnding() {
  const std::lock_guard lock(owner_->mutex_);
  owner_->held_[id_] = State::kEnding;
}

absl::StatusOr<BusySessions::Hold> BusySessions::Take(const std::string& id) {
  std::unique_lock lock(mutex_);
  released_.wait_for(lock, kEndingPatience, [&] {
    const auto it = held_.find(id);
    return it == held_.end() || it->second == State::kHeld;
  });
  if (!held_.emplace(id, State::kHeld).second) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id, " already runs a turn, or is being changed"));
  }
  return Hold(this, id);
}

absl::Status ChatService::RespondWith(const std::string& id, v1::Session* response) {
  TS_ASSIGN_OR_RETURN(const SessionRecord session, parts_.sessions->Get(id));
  WriteSession(session, response);
  return absl::OkStatus();
}

grpc::Status ChatService::CreateSession(grpc::ServerContext*,
                                        const v1::CreateSessionRequest* request,
                                        v1::Session* response) {
  const auto session = ParseCreate(*request);
  if (!session.ok()) return ToGrpc(session.status());
  const absl::Status created = parts_.sessions->Create(*session);
  if (!created.ok()) return ToGrpc(created);
  return ToGrpc(RespondWith(session->id, response));
}

// The document is counted, checked and stored; it is read with the next message. What does not fit
// is refused here: a document cannot be taken back, and no message could follow it.
absl::StatusOr<int64_t> ChatService::Attach(const std::string& session_id, const std::string& name,
                                            std::string text) {
  TS_ASSIGN_OR_RETURN(const auto hold, busy_.Take(session_id));
  TS_ASSIGN_OR_RETURN(const SessionRecord session, parts_.sessions->Get(session_id));
  TS_ASSIGN_OR_RETURN(const std::vector<TokenId> ids,
                      parts_.tokenizer->Encode(DocumentText(name, text)));
  const auto tokens = static_cast<int64_t>(ids.size());
  const int64_t room = options_.context_tokens - session.tokens - session.unread_tokens;
  if (tokens > room - kLeastRoomTokens) {
    return absl::ResourceExhaustedError(
        absl::StrCat("document has ", tokens, " tokens, the session ", session.tokens, " and ",
                     session.unread_tokens, " of documents not read yet, the model reads ",
                     options_.context_tokens, " with ", kLeastRoomTokens, " for the next message"));
  }
  TS_RETURN_IF_ERROR(parts_.sessions->Append(session_id, {{.role = EntryRole::kDocument,
                                                           .name = name,
                                                           .text = std::move(text),
                                                           .tokens = {},
                                                           .token_count = tokens}}));
  return tokens;
}

grpc::Status ChatService::AttachDocument(grpc::ServerContext*,
                                         grpc::ServerReader<v1::AttachDocumentRequest>* reader,
                                         v1::AttachDocumentResponse* response) {
  DocumentUpload upload;
  v1::AttachDocumentRequest part;
  while (reader->Read(&part)) {
    absl::Status taken = upload.Take(part);
    // Before half a gigabyte comes for nothing.
    if (part.has_header()) taken.Update(parts_.sessions->Get(part.header().session_id()).status());
    if (!taken.ok()) return ToGrpc(taken);
  }
  auto text = upload.Finish();
  if (!text.ok()) return ToGrpc(text.status());
  response->set_bytes(static_cast<int64_t>(text->size()));
  const std::string& id = upload.header().session_id();
  const auto tokens = Attach(id, upload.header().name(), *std::move(text));
  if (!tokens.ok()) return ToGrpc(tokens.status());
  response->set_tokens(*tokens);
  return ToGrpc(RespondWith(id, response->mutable_session()));
}

grpc::Status ChatService::Chat(grpc::ServerContext* context, const v1::ChatRequest* request,
                               grpc::ServerWriter<v1::ChatEvent>* writer) {
  auto hold = busy_.Take(request->session_id());
  if (!hold.ok()) return ToGrpc(hold.status());
  const auto is_there = [&] {
    if (!context->IsCancelled()) return true;
    hold->SetEnding();  // the client may be back with its next message before the worker has
                        // stopped
    return false;
  };
  const auto write = [&](const v1::ChatEvent& event) { return is_there() && writer->Write(event); };
  const auto finished = RunTurn(*request, options_, parts_, {.write = write, .is_there = is_there});
  if (!finished.ok()) return ToGrpc(finished.status());
  v1::ChatEvent event;
  *event.mutable_finished() = *finished;
  writer->Write(event);
  return grpc::Status::OK;
}

absl::Status ChatService::Fork(const v1::ForkSessionRequest& request, const std::string& child_id) {
  const std::string& parent_id = request.session_id();
  if (child_id == parent_id) {
    return absl::AlreadyExistsError(absl::StrCat("session ", child_id, " exists"));
  }
  TS_ASSIGN_OR_RETURN(const auto hold, busy_.Take(parent_id));
  // The child too: no turn of it may begin before the worker has its KV.
  TS_ASSIGN_OR_RETURN(const auto child_hold, busy_.Take(child_id));
  TS_ASSIGN_OR_RETURN(SessionRecord child, parts_.sessions->Get(parent_id));
  child.id = child_id;
  child.parent_id = parent_id;
  TS_RETURN_IF_ERROR(parts_.sessions->Fork(parent_id, child));
  const absl::Status shared = parts_.decoder->Fork(parts_.tenant, parent_id, child_id);
  if (!shared.ok()) {
    // The history is there: the child's first turn computes what no worker has.
    spdlog::info("fork without KV: {}", std::string(shared.message()));
  }
  return absl::OkStatus();
}

grpc::Status ChatService::ForkSession(grpc::ServerContext*, const v1::ForkSessionRequest* request,
                                      v1::Session* response) {
  const auto id = NewId(request->new_id());
  if (!id.ok()) return ToGrpc(id.status());
  const absl::Status forked = Fork(*request, *id);
  if (!forked.ok()) return ToGrpc(forked);
  return ToGrpc(RespondWith(*id, response));
}

grpc::Status ChatService::GetSession(grpc::ServerContext*, const v1::GetSessionRequest* request,
                                     v1::GetSessionResponse* response) {
  const absl::Status found = RespondWith(request->session_id(), response->mutable_session());
  if (!found.ok()) return ToGrpc(found);
  const auto entries = parts_.sessions->Entries(request->session_id());
  if (!entries.ok()) return ToGrpc(entries.status());
  for (const SessionEntry& entry : *entries) {
    v1::Message* message = response->add_messages();
    message->set_role(RoleOf(entry.role));
    message->set_text(entry.text);
    message->set_name(entry.name);
    message->set_tokens(entry.token_count);
  }
  return grpc::Status::OK;
}

grpc::Status ChatService::ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                                       v1::ListSessionsResponse* response) {
  const auto after = ParsePageToken(request->page_token());
  if (!after.ok()) return ToGrpc(after.status());
  const int32_t size =
      request->page_size() <= 0 ? kDefaultPage : std::min(request->page_size(), kMaxPage);
  auto sessions = parts_.sessions->List(size + 1, *after);  // one more tells whether there is more
  if (!sessions.ok()) return ToGrpc(sessions.status());
  const bool more = sessions->size() > static_cast<size_t>(size);
  if (more) sessions->pop_back();
  for (const SessionRecord& session : *sessions) WriteSession(session, response->add_sessions());
  if (more) response->set_next_page_token(PageToken(sessions->back()));
  return grpc::Status::OK;
}

grpc::Status ChatService::DeleteSession(grpc::ServerContext*,
                                        const v1::DeleteSessionRequest* request,
                                        v1::DeleteSessionResponse*) {
  const auto hold = busy_.Take(request->session_id());
  if (!hold.ok()) return ToGrpc(hold.status());
  const absl::Status deleted = parts_.sessions->Delete(request->session_id());
  if (!deleted.ok()) return ToGrpc(deleted);
  const absl::Status removed = parts_.decoder->Remove(parts_.tenant, request->session_id());
  if (!removed.ok()) {
    // Without a name in any transcript the KV is unreachable and will be evicted.
    spdlog::warn("KV of a deleted session stays until evicted: {}", std::string(removed.message()));
  }
  return grpc::Status::OK;
}

}  // namespace tailor
