// What `tailor eval` hands over: the same figures as JSON, Markdown and one HTML page.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "worker/quality/evaluation.h"

namespace tailor {

// What was measured, and on what.
struct EvalSubject {
  std::string model_name, weights;  // fingerprint in hexadecimal
  std::string policy_summary, policy, policy_source;
  std::string simd;
};

nlohmann::json EvalJson(const EvalSubject& subject, const EvaluationResult& result);
std::string EvalMarkdown(const EvalSubject& subject, const EvaluationResult& result);
std::string EvalHtml(const EvalSubject& subject, const EvaluationResult& result);

}  // namespace tailor
