// The tensors of a model of Llama's kind: which there must be, with which shapes, and what
// Hugging Face calls them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/model_file/model_file.h"

namespace tailor {

// Checks that exactly the needed tensors are there, each with the shape the hyperparameters imply;
// norms and biases must be F32, F16 or BF16. Errors: NotFound (missing), InvalidArgument (shape,
// dtype), Unimplemented (a tensor the forward pass would ignore: an expert, the bias of another
// family); each names the tensor.
absl::Status ValidateTensors(const LlamaHyperparameters& model,
                             const std::map<std::string, TensorView, std::less<>>& tensors);

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; nullopt for an unknown name.
std::optional<std::string> CanonicalFromHuggingFace(std::string_view name);

}  // namespace tailor
