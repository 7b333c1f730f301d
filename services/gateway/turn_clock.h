// What the gateway itself sees of a turn's times: all there is to report when a worker died with
// its own figures. Times are passed in, so that tests need not wait.
#pragma once

#include <chrono>
#include <cstdint>

#include "tailor/v1/types.pb.h"

namespace tailor {

class TurnClock {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  explicit TurnClock(TimePoint submitted) : submitted_(submitted), begun_(submitted) {}

  // The turn is issued again: without a token, what came before was waiting.
  void OnAttempt(TimePoint now);
  void OnProgress(v1::TurnPhase phase, TimePoint now);
  void OnToken(TimePoint now);

  // Overwrites generated_tokens and all times with those of the whole turn, as its client saw them.
  void WriteTo(v1::TurnReport* report) const;

 private:
  TimePoint submitted_;
  TimePoint begun_;  // when work for the first token began, in the attempt that gave it
  bool working_ = false;
  TimePoint first_token_, last_token_;
  int64_t tokens_ = 0;
};

}  // namespace tailor
