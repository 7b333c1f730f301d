#include "services/worker/policy_source.h"

#include "common/status.h"

namespace tailor {
namespace {

std::filesystem::path NeighbourOf(const std::filesystem::path& model) {
  std::filesystem::path stem = model.lexically_normal();
  if (!stem.has_filename()) stem = stem.parent_path();  // "dir/name/"
  if (stem.extension() == ".gguf") stem.replace_extension();
  return stem.concat(".policy.json");
}

// Empty: no file, take the default.
std::filesystem::path FindFile(const PolicyRequest& request, const Fingerprint& weights) {
  if (!request.policy.empty()) return request.policy;
  std::error_code error;
  const std::filesystem::path neighbour = NeighbourOf(request.model);
  if (std::filesystem::exists(neighbour, error)) return neighbour;
  if (request.policy_dir.empty()) return {};
  const std::filesystem::path shipped = request.policy_dir / (weights.ToHex() + ".json");
  return std::filesystem::exists(shipped, error) ? shipped : std::filesystem::path();
}

absl::Status WithPath(const absl::Status& status, const std::filesystem::path& path) {
  return absl::Status(status.code(), absl::StrCat("policy file ", path.string(), ": ",
                                                  std::string(status.message())));
}

}  // namespace

absl::StatusOr<ChosenPolicy> ChoosePolicy(const PolicyRequest& request,
                                          const std::string& model_name, const Fingerprint& weights,
                                          const LlamaHyperparameters& shape) {
  ChosenPolicy chosen;
  const std::filesystem::path file = FindFile(request, weights);
  if (file.empty()) {
    chosen = {LayerPolicy::Default(model_name, weights, shape), "built-in default"};
  } else {
    absl::StatusOr<LayerPolicy> loaded = LayerPolicy::Load(file);
    if (!loaded.ok()) return WithPath(loaded.status(), file);
    chosen = {*std::move(loaded), file.string()};
  }
  if (request.selector) chosen.policy.selector = *request.selector;
  if (request.query) chosen.policy.query = *request.query;
  if (absl::Status valid = chosen.policy.Validate(shape, weights); !valid.ok()) {
    return WithPath(valid, chosen.source);
  }
  return chosen;
}

}  // namespace tailor
