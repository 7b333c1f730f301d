#include "common/model_file/safetensors.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "common/model_file/byte_reader.h"
#include "common/model_file/json_fields.h"
#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit

absl::Status Broken(const std::string& tensor, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor, " ", problem));
}

// JSON keeps the last of two equal keys; here the second is refused.
absl::StatusOr<json> ParseHeader(std::string_view text) {
  std::set<std::string> names;
  std::optional<std::string> twice;
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth == 1 && event == json::parse_event_t::key) {
      const auto [name, is_new] = names.insert(parsed.get<std::string>());
      if (!is_new) twice = *name;
    }
    too_deep = too_deep || depth > kMaxJsonDepth;
    return !too_deep;
  };
  json header = json::parse(text, watch, /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors header is nested deeper than ", kMaxJsonDepth, " levels"));
  }
  if (!header.is_object()) {
    return absl::InvalidArgumentError("safetensors header is not a JSON object");
  }
  if (twice) return Broken(*twice, "is listed twice");
  return header;
}

absl::StatusOr<DType> DTypeOf(const json& entry, const std::string& name) {
  TS_ASSIGN_OR_RETURN(const auto text, GetString(entry, "dtype"));
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (text && *text == DTypeName(dtype)) return dtype;
  }
  return absl::UnimplementedError(absl::StrCat(
      "tensor ", name, " has dtype ", text.value_or("none"), ", supported are F32, F16, BF16"));
}

// A list of `low` to `high` non-negative 63-bit integers.
absl::StatusOr<std::vector<int64_t>> GetExtents(const json& entry, const char* key, size_t low,
                                                size_t high, const std::string& name) {
  const json* list = FindField(entry, key);
  if (list == nullptr || !list->is_array() || list->size() < low || list->size() > high) {
    return Broken(
        name, absl::StrCat("has a ", key, " that is no list of ", low, " to ", high, " integers"));
  }
  std::vector<int64_t> values;
  for (const json& value : *list) {
    if (!value.is_number_unsigned() || !std::in_range<int64_t>(value.get<uint64_t>())) {
      return Broken(name, absl::StrCat("has a ", key, " entry that is no 63-bit integer"));
    }
    values.push_back(value.get<int64_t>());
  }
  return values;
}

absl::StatusOr<TensorView> ReadEntry(const std::string& name, const json& entry,
                                     std::span<const std::byte> data) {
  if (!entry.is_object()) return Broken(name, "is described by no JSON object");
  TensorView view;
  TS_ASSIGN_OR_RETURN(view.dtype, DTypeOf(entry, name));
  TS_ASSIGN_OR_RETURN(const auto shape, GetExtents(entry, "shape", 1, 2, name));
  TS_ASSIGN_OR_RETURN(const auto range, GetExtents(entry, "data_offsets", 2, 2, name));
  view.rows = shape.size() == 2 ? shape[0] : 1;
  view.cols = shape.back();
  const auto bytes = TensorBytes(view.dtype, view.rows, view.cols);
  if (!bytes.ok()) return Broken(name, absl::StrCat("has ", std::string(bytes.status().message())));
  const auto begin = static_cast<uint64_t>(range[0]), end = static_cast<uint64_t>(range[1]);
  if (begin > end || end > data.size()) {
    return Broken(name, absl::StrCat("lies from ", begin, " to ", end, ", the file has ",
                                     data.size(), " bytes of data"));
  }
  if (end - begin != static_cast<uint64_t>(*bytes)) {
    return Broken(name,
                  absl::StrCat("has ", end - begin, " bytes, its shape and dtype imply ", *bytes));
  }
  view.bytes = data.subspan(begin, end - begin);
  return view;
}

absl::Status CheckLayout(const std::map<std::string, TensorView, std::less<>>& tensors,
                         std::span<const std::byte> file, std::span<const std::byte> data) {
  std::vector<std::pair<size_t, std::string_view>> order;
  for (const auto& [name, view] : tensors) {
    order.emplace_back(view.bytes.data() - data.data(), name);
    const size_t offset = view.bytes.data() - file.data();
    if (offset % BlockBytes(view.dtype) != 0) {
      return Broken(
          name, absl::StrCat("is at byte ", offset, " of the file, must be a multiple of ",
                             BlockBytes(view.dtype), "; save the file again with current tools"));
    }
  }
  std::sort(order.begin(), order.end());
  size_t next = 0;
  for (const auto& [offset, name] : order) {
    if (offset != next) {
      return Broken(std::string(name),
                    absl::StrCat("starts at ", offset, ", the one before ends at ", next));
    }
    next += tensors.find(name)->second.bytes.size();
  }
  if (next == data.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors file has ", data.size(), " bytes of data, its tensors use ", next));
}

}  // namespace

absl::StatusOr<std::map<std::string, TensorView, std::less<>>> ParseSafetensors(
    std::span<const std::byte> file) {
  ByteReader in(file);
  TS_ASSIGN_OR_RETURN(const std::string_view text,
                      in.ReadString(kMaxHeaderBytes, "safetensors header"));
  const std::span<const std::byte> data = file.subspan(in.offset());
  TS_ASSIGN_OR_RETURN(const json header, ParseHeader(text));
  std::map<std::string, TensorView, std::less<>> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    TS_ASSIGN_OR_RETURN(const TensorView view, ReadEntry(name, entry, data));
    tensors.emplace(name, view);
  }
  TS_RETURN_IF_ERROR(CheckLayout(tensors, file, data));
  return tensors;
}

}  // namespace tailor
