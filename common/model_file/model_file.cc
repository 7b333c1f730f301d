#include "common/model_file/model_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "common/model_file/llama_tensors.h"
#include "common/model_file/model_format.h"
#include "common/status.h"

namespace tailor {
namespace {

constexpr std::array kFormats = {&kGgufFormat, &kHfDirectoryFormat};

constexpr size_t kSampleBytes = 4096;

absl::Status ValidateTokenizer(const TokenizerSpec& spec, int32_t vocab) {
  if (spec.tokens.size() != static_cast<size_t>(vocab) || spec.kinds.size() != spec.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer has ", spec.tokens.size(), " tokens and ", spec.kinds.size(),
                     " token kinds, the model's vocabulary is ", vocab));
  }
  std::vector<std::optional<TokenId>> ids = {spec.bos, spec.eos, spec.unknown};
  ids.insert(ids.end(), spec.extra_end_of_generation.begin(), spec.extra_end_of_generation.end());
  for (const std::optional<TokenId>& id : ids) {
    if (id && (*id < 0 || *id >= vocab)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer names token ", *id, ", the vocabulary has ", vocab));
    }
  }
  return absl::OkStatus();
}

// qkv_bias is in the names of the tensors.
void AddHyperparameters(const LlamaHyperparameters& m, Fingerprinter& out) {
  for (const int64_t value :
       {int64_t{m.layers}, int64_t{m.hidden}, int64_t{m.q_heads}, int64_t{m.kv_heads},
        int64_t{m.head_dim}, int64_t{m.ffn_hidden}, int64_t{m.vocab}, m.context_tokens,
        static_cast<int64_t>(m.rope_layout), static_cast<int64_t>(m.rope_scaling.kind),
        m.rope_scaling.original_context, int64_t{m.tied_embedding}}) {
    out.AddInt(value);
  }
  for (const float value : {m.rope_theta, m.rms_eps, m.rope_scaling.factor,
                            m.rope_scaling.low_freq_factor, m.rope_scaling.high_freq_factor}) {
    out.AddInt(std::bit_cast<int32_t>(value));
  }
}

// First, middle and last 4 KiB; the whole of a tensor that is no longer than that.
void AddSamples(std::span<const std::byte> bytes, Fingerprinter& out) {
  const size_t sample = std::min(bytes.size(), kSampleBytes);
  const size_t middle = (bytes.size() - sample) / 2, last = bytes.size() - sample;
  out.AddBytes(bytes.first(sample)).AddBytes(bytes.subspan(middle, sample));
  out.AddBytes(bytes.subspan(last, sample));
}

Fingerprint FingerprintOf(const ModelContents& contents) {
  Fingerprinter out;
  out.AddString("tailor model weights v1");
  AddHyperparameters(contents.hyperparameters, out);
  for (const auto& [name, tensor] : contents.tensors) {
    out.AddString(name).AddString(DTypeName(tensor.dtype));
    out.AddInt(tensor.rows).AddInt(tensor.cols);
    AddSamples(tensor.bytes, out);
  }
  return out.Finish();
}

absl::StatusOr<ModelContents> Load(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat("model ", path.string(), " does not exist"));
  }
  for (const ModelFormat* format : kFormats) {
    if (format->recognises(path)) return format->load(path);
  }
  std::string names;
  for (const ModelFormat* format : kFormats) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(format->name));
  }
  return absl::UnimplementedError(
      absl::StrCat(path.string(), " is in no format this build reads: ", names));
}

absl::Status Validate(const ModelContents& contents) {
  TS_RETURN_IF_ERROR(contents.hyperparameters.Validate());
  TS_RETURN_IF_ERROR(ValidateTokenizer(contents.tokenizer, contents.hyperparameters.vocab));
  return ValidateTensors(contents.hyperparameters, contents.tensors);
}

}  // namespace

struct ModelFile::Impl {
  ModelContents contents;
  Fingerprint fingerprint;
  int64_t weight_bytes = 0;
};

ModelFile::ModelFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ModelFile::~ModelFile() = default;

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::filesystem::path& path) {
  TS_ASSIGN_OR_RETURN(ModelContents contents, Load(path));
  if (const absl::Status valid = Validate(contents); !valid.ok()) {
    return absl::Status(valid.code(),
                        absl::StrCat(path.string(), ": ", std::string(valid.message())));
  }
  auto impl = std::make_unique<Impl>();
  impl->contents = std::move(contents);
  for (auto& [name, tensor] : impl->contents.tensors) {
    tensor.name = name;
    impl->weight_bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  impl->fingerprint = FingerprintOf(impl->contents);
  return std::unique_ptr<ModelFile>(new ModelFile(std::move(impl)));
}

const LlamaHyperparameters& ModelFile::hyperparameters() const {
  return impl_->contents.hyperparameters;
}
const TokenizerSpec& ModelFile::tokenizer() const { return impl_->contents.tokenizer; }
const std::string& ModelFile::name() const { return impl_->contents.name; }
const Fingerprint& ModelFile::fingerprint() const { return impl_->fingerprint; }
int64_t ModelFile::weight_bytes() const { return impl_->weight_bytes; }

absl::StatusOr<TensorView> ModelFile::Tensor(std::string_view canonical_name) const {
  const auto found = impl_->contents.tensors.find(canonical_name);
  if (found == impl_->contents.tensors.end()) {
    return absl::NotFoundError(
        absl::StrCat("model ", name(), " has no tensor ", std::string(canonical_name)));
  }
  return found->second;
}

}  // namespace tailor
