// Which layer policy a worker runs with. In this order, the first that exists:
//   --policy FILE
//   the model's neighbour: dir/name.policy.json for dir/name.gguf or dir/name/
//   --policy-dir DIR: DIR/<weights fingerprint>.json
//   LayerPolicy::Default
// A file that exists but is damaged, or made for other weights, is an error, never passed over.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/policy/layer_policy.h"

namespace tailor {

struct PolicyRequest {
  std::filesystem::path model{};
  std::filesystem::path policy{};      // empty: not given
  std::filesystem::path policy_dir{};  // empty: not given
  std::optional<Selector> selector{};  // override the file's
  std::optional<QueryMode> query{};
};

struct ChosenPolicy {
  LayerPolicy policy;
  std::string source;  // for the log: a path, or "built-in default"
};

// Errors: NotFound (--policy names no file), InvalidArgument and FailedPrecondition with the path.
absl::StatusOr<ChosenPolicy> ChoosePolicy(const PolicyRequest& request,
                                          const std::string& model_name, const Fingerprint& weights,
                                          const LlamaHyperparameters& shape);

}  // namespace tailor
