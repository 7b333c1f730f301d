#include "worker/quality/scorer.h"

#include "common/status.h"
#include "common/text/lower_case.h"

namespace tailor {

double ScoreAnswer(std::string_view output, std::span<const std::string> answers, Scoring scoring) {
  TS_CHECK(!answers.empty());
  const std::string low = LowerCase(output);
  int found = 0;
  for (const std::string& answer : answers) found += low.find(LowerCase(answer)) != low.npos;
  if (scoring == Scoring::kAnyIn) return found > 0 ? 1 : 0;
  return found / static_cast<double>(answers.size());
}

}  // namespace tailor
