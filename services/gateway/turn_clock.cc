#include "services/gateway/turn_clock.h"

namespace tailor {
namespace {

double MillisBetween(TurnClock::TimePoint from, TurnClock::TimePoint to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

void TurnClock::OnAttempt(TimePoint now) {
  if (tokens_ > 0) return;
  begun_ = now;
  working_ = false;
}

void TurnClock::OnProgress(v1::TurnPhase phase, TimePoint now) {
  if (tokens_ > 0 || working_) return;
  begun_ = now;
  working_ = phase != v1::TURN_PHASE_QUEUED;
}

void TurnClock::OnToken(TimePoint now) {
  if (tokens_++ == 0) first_token_ = now;
  last_token_ = now;
}

void TurnClock::WriteTo(v1::TurnReport* report) const {
  report->set_generated_tokens(tokens_);
  report->set_queue_ms(MillisBetween(submitted_, begun_));
  report->set_prefill_ms(tokens_ > 0 ? MillisBetween(begun_, first_token_) : 0);
  report->set_time_to_first_token_ms(tokens_ > 0 ? MillisBetween(submitted_, first_token_) : 0);
  const double decode_ms = tokens_ > 1 ? MillisBetween(first_token_, last_token_) : 0;
  report->set_decode_ms(decode_ms);
  report->set_tokens_per_second(decode_ms > 0 ? static_cast<double>(tokens_ - 1) * 1000 / decode_ms
                                              : 0);
}

}  // namespace tailor
