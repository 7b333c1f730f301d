// The score of one answer. Rules: case is ignored (LowerCase); an expected string counts as found
// when it is a substring of the output.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace tailor {

enum class Scoring {
  kAllIn,  // the share of the answers found
  kAnyIn,  // 1 when at least one is found
};

// From 0 to 1. Precondition: answers is not empty.
double ScoreAnswer(std::string_view output, std::span<const std::string> answers, Scoring scoring);

}  // namespace tailor
