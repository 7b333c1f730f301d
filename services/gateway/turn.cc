#include "services/gateway/turn.h"

#include <algorithm>

#include "common/status.h"
#include "common/text/detokenizer.h"
#include "services/gateway/stop_strings.h"

namespace tailor {
namespace {

constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr size_t kMaxMessageBytes = 8 << 20;

absl::Status CheckRequest(const v1::ChatRequest& request) {
  if (request.message().empty()) return absl::InvalidArgumentError("message is empty");
  if (request.message().size() > kMaxMessageBytes) {
    return absl::InvalidArgumentError(absl::StrCat("message has ", request.message().size(),
                                                   " bytes, limit ", kMaxMessageBytes,
                                                   ": attach it as a document"));
  }
  if (request.max_tokens() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens(), ", limit 0.."));
  }
  if (request.stop_size() > kMaxStops) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop has ", request.stop_size(), " strings, limit ", kMaxStops));
  }
  for (const std::string& stop : request.stop()) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a stop string has ", stop.size(), " bytes, limit 1..", kMaxStopBytes));
    }
  }
  return absl::OkStatus();
}

// Tokens the answer may have; an error when the prompt leaves no room, or not what was asked for.
absl::StatusOr<int32_t> AnswerRoom(const v1::ChatRequest& request, const TurnOptions& options,
                                   int64_t history_tokens) {
  const int64_t room = options.context_tokens - history_tokens;
  if (room < 1 || room < request.max_tokens()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "conversation has ", history_tokens, " tokens with this message, the model reads ",
        options.context_tokens, ": ", std::max<int64_t>(room, 0), " are left for the answer",
        request.max_tokens() > 0 ? absl::StrCat(", ", request.max_tokens(), " asked") : ""));
  }
  if (request.max_tokens() > 0) return request.max_tokens();
  return static_cast<int32_t>(std::min<int64_t>(room, options.default_max_tokens));
}

v1::AttentionMode Attention(const v1::ChatRequest& request, const SessionRecord& session) {
  if (request.attention() != v1::ATTENTION_MODE_UNSPECIFIED) return request.attention();
  switch (session.attention) {
    case SessionAttention::kHybrid:
      return v1::ATTENTION_MODE_HYBRID;
    case SessionAttention::kFull:
      return v1::ATTENTION_MODE_FULL;
    case SessionAttention::kDefault:
      break;
  }
  return v1::ATTENTION_MODE_UNSPECIFIED;
}

// Turns tokens into text for the client, and remembers both.
class Answer {
 public:
  Answer(const v1::ChatRequest& request, const TurnParts& parts, const TurnListener& listener)
      : parts_(parts),
        listener_(listener),
        detokenizer_(*parts.tokenizer),
        stops_({request.stop().begin(), request.stop().end()}) {}

  TurnControl OnProgress(const v1::TurnProgress& progress) {
    v1::ChatEvent event;
    *event.mutable_progress() = progress;
    return Obey(listener_.write(event));
  }

  TurnControl OnToken(TokenId token) {
    tokens_.push_back(token);
    const bool heard = Show(stops_.Push(detokenizer_.Push(token)));
    return Obey(heard && !stops_.stopped());
  }

  TurnControl OnWait() { return Obey(listener_.is_there()); }

  // What was held back, when no stop string cut the answer.
  void End() {
    Show(stops_.Push(detokenizer_.Flush()));
    Show(stops_.Flush());
  }

  bool met_stop_string() const { return stops_.stopped(); }
  const std::string& text() const { return text_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }

 private:
  static TurnControl Obey(bool go_on) {
    return go_on ? TurnControl::kContinue : TurnControl::kStop;
  }
  bool Show(const std::string& piece) {
    if (piece.empty()) return true;
    text_ += piece;
    v1::ChatEvent event;
    event.set_text(piece);
    return listener_.write(event);
  }

  const TurnParts& parts_;
  const TurnListener& listener_;
  Detokenizer detokenizer_;
  StopStrings stops_;
  std::string text_;
  std::vector<TokenId> tokens_;
};

v1::GenerateRequest MakeGenerate(const v1::ChatRequest& request, const SessionRecord& session,
                                 const TurnParts& parts, const Prompt& prompt, int32_t max_tokens) {
  v1::GenerateRequest generate;
  generate.mutable_sequence()->set_tenant(parts.tenant);
  generate.mutable_sequence()->set_name(session.id);
  generate.mutable_history()->Add(prompt.history.begin(), prompt.history.end());
  generate.set_attention(Attention(request, session));
  *generate.mutable_sampling() = request.sampling();
  generate.set_max_new_tokens(max_tokens);
  const auto& stops = parts.tokenizer->end_of_generation();
  generate.mutable_stop_tokens()->Add(stops.begin(), stops.end());
  return generate;
}

}  // namespace

absl::StatusOr<v1::ChatFinished> RunTurn(const v1::ChatRequest& request, const TurnOptions& options,
                                         const TurnParts& parts, const TurnListener& listener) {
  TS_RETURN_IF_ERROR(CheckRequest(request));
  TS_ASSIGN_OR_RETURN(const SessionRecord session, parts.sessions->Get(request.session_id()));
  TS_ASSIGN_OR_RETURN(const auto transcript, parts.sessions->Entries(session.id));
  TS_ASSIGN_OR_RETURN(Prompt prompt,
                      BuildPrompt(session, transcript, request.message(), *parts.chat));
  TS_ASSIGN_OR_RETURN(const int32_t max_tokens,
                      AnswerRoom(request, options, static_cast<int64_t>(prompt.history.size())));

  Answer answer(request, parts, listener);
  TS_ASSIGN_OR_RETURN(
      const v1::GenerateFinished finished,
      parts.decoder->Generate(
          MakeGenerate(request, session, parts, prompt, max_tokens),
          {.on_progress = [&](const v1::TurnProgress& p) { return answer.OnProgress(p); },
           .on_token = [&](TokenId token) { return answer.OnToken(token); },
           .on_wait = [&] { return answer.OnWait(); }}));
  answer.End();

  v1::ChatFinished result;
  result.set_reason(answer.met_stop_string() ? v1::FINISH_REASON_STOP : finished.reason());
  *result.mutable_report() = finished.report();
  result.set_text(answer.text());
  // A turn that was cancelled before its first token has said nothing: it leaves no trace.
  result.set_session_tokens(session.tokens);
  if (answer.tokens().empty()) return result;
  result.set_session_tokens(static_cast<int64_t>(prompt.history.size() + answer.tokens().size()));
  prompt.entries.push_back({.role = EntryRole::kAssistant,
                            .name = "",
                            .text = answer.text(),
                            .tokens = answer.tokens(),
                            .token_count = static_cast<int64_t>(answer.tokens().size())});
  TS_RETURN_IF_ERROR(parts.sessions->Append(session.id, prompt.entries));
  return result;
}

}  // namespace tailor
