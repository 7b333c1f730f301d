#include "common/model_file/gguf.h"

#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "common/model_file/byte_reader.h"
#include "common/status.h"

namespace tailor {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxStringBytes = 16 << 20;
constexpr uint64_t kMaxEntries = 1 << 20;  // metadata keys, or tensors
constexpr int64_t kMaxAlignment = 1 << 20;

enum class Type : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

// Bytes of one element; at least 8 for a string, whose length field is that long.
absl::StatusOr<uint64_t> MinBytes(Type type, std::string_view key) {
  constexpr std::array<uint64_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
  const auto index = static_cast<uint32_t>(type);
  if (type != Type::kArray && index < kBytes.size()) return kBytes[index];
  return absl::UnimplementedError(absl::StrCat("GGUF key ", std::string(key),
                                               " has elements of type ", index,
                                               ", supported are 0 to 12 without nested arrays"));
}

template <typename T>
absl::StatusOr<int64_t> ReadInt(ByteReader& in, std::string_view key) {
  TS_ASSIGN_OR_RETURN(const T value, in.Read<T>(key));
  if (!std::in_range<int64_t>(value)) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF key ", std::string(key), " is ", value,
                                                   ", limit ",
                                                   std::numeric_limits<int64_t>::max()));
  }
  return static_cast<int64_t>(value);
}

bool IsFloat(Type type) { return type == Type::kFloat32 || type == Type::kFloat64; }

absl::StatusOr<double> ReadFloat(ByteReader& in, Type type, std::string_view key) {
  if (type == Type::kFloat64) return in.Read<double>(key);
  TS_ASSIGN_OR_RETURN(const float value, in.Read<float>(key));
  return static_cast<double>(value);
}

// Integers and bools.
absl::StatusOr<int64_t> ReadInt(ByteReader& in, Type type, std::string_view key) {
  switch (type) {
    case Type::kUint8:
      return ReadInt<uint8_t>(in, key);
    case Type::kInt8:
      return ReadInt<int8_t>(in, key);
    case Type::kUint16:
      return ReadInt<uint16_t>(in, key);
    case Type::kInt16:
      return ReadInt<int16_t>(in, key);
    case Type::kUint32:
      return ReadInt<uint32_t>(in, key);
    case Type::kInt32:
      return ReadInt<int32_t>(in, key);
    case Type::kUint64:
      return ReadInt<uint64_t>(in, key);
    case Type::kInt64:
      return ReadInt<int64_t>(in, key);
    case Type::kBool:
      break;
    default:
      return absl::UnimplementedError(
          absl::StrCat("GGUF key ", std::string(key), " has type ", static_cast<uint32_t>(type)));
  }
  TS_ASSIGN_OR_RETURN(const auto value, in.Read<uint8_t>(key));
  if (value > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key ", std::string(key), " is bool ", int{value}, ", must be 0 or 1"));
  }
  return int64_t{value};
}

template <typename T, typename ReadOne>
absl::StatusOr<GgufValue> ReadMany(uint64_t count, ReadOne read) {
  std::vector<T> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    TS_ASSIGN_OR_RETURN(T value, read());
    values.push_back(value);
  }
  return GgufValue(std::move(values));
}

absl::StatusOr<GgufValue> ReadArray(ByteReader& in, std::string_view key) {
  TS_ASSIGN_OR_RETURN(const auto type, in.Read<Type>(key));
  TS_ASSIGN_OR_RETURN(const auto count, in.Read<uint64_t>(key));
  TS_ASSIGN_OR_RETURN(const uint64_t element_bytes, MinBytes(type, key));
  // Before reserving: a count that the file cannot hold is a lie.
  if (count > in.remaining() / element_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF key ", std::string(key), " has ", count,
                                                   " elements, the file has room for ",
                                                   in.remaining() / element_bytes));
  }
  if (type == Type::kString) {
    return ReadMany<std::string_view>(count, [&] { return in.ReadString(kMaxStringBytes, key); });
  }
  if (IsFloat(type)) return ReadMany<double>(count, [&] { return ReadFloat(in, type, key); });
  return ReadMany<int64_t>(count, [&] { return ReadInt(in, type, key); });
}

absl::StatusOr<GgufValue> ReadValue(ByteReader& in, std::string_view key) {
  TS_ASSIGN_OR_RETURN(const auto type, in.Read<Type>(key));
  if (type == Type::kArray) return ReadArray(in, key);
  if (type == Type::kString) {
    TS_ASSIGN_OR_RETURN(const std::string_view text, in.ReadString(kMaxStringBytes, key));
    return GgufValue(text);
  }
  if (IsFloat(type)) {
    TS_ASSIGN_OR_RETURN(const double value, ReadFloat(in, type, key));
    return GgufValue(value);
  }
  TS_RETURN_IF_ERROR(MinBytes(type, key).status());
  TS_ASSIGN_OR_RETURN(const int64_t value, ReadInt(in, type, key));
  return type == Type::kBool ? GgufValue(value != 0) : GgufValue(value);
}

absl::StatusOr<DType> DTypeOf(uint32_t ggml_type, const std::string& tensor) {
  switch (ggml_type) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 8:
      return DType::kQ8_0;
    case 12:
      return DType::kQ4_K;
    case 14:
      return DType::kQ6_K;
    case 30:
      return DType::kBF16;
    default:
      break;
  }
  // Names of the types people will meet, in ggml's numbering.
  constexpr std::array<std::string_view, 16> kNames = {"",     "",     "", "",     "Q4_2", "Q4_3",
                                                       "Q5_0", "Q5_1", "", "Q8_1", "Q2_K", "Q3_K",
                                                       "",     "Q5_K", "", "Q8_K"};
  const std::string name = ggml_type < kNames.size() ? std::string(kNames[ggml_type]) : "unknown";
  return absl::UnimplementedError(
      absl::StrCat("tensor ", tensor, " has ggml type ", ggml_type, " (", name,
                   "), supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K"));
}

// A directory entry: where the tensor starts within the data section, to be resolved once that is
// known.
struct Entry {
  std::string name;
  DType dtype = DType::kF32;
  int64_t rows = 1, cols = 1;
  uint64_t offset = 0;
};

absl::Status ReadShape(ByteReader& in, Entry& entry) {
  const std::string what = "shape of tensor " + entry.name;
  TS_ASSIGN_OR_RETURN(const auto dims, in.Read<uint32_t>(what));
  if (dims < 1 || dims > 4) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", dims, " dimensions, limit 1 to 4"));
  }
  for (uint32_t d = 0; d < dims; ++d) {
    TS_ASSIGN_OR_RETURN(const int64_t extent, ReadInt<uint64_t>(in, what));
    if (d == 0) entry.cols = extent;
    if (d == 1) entry.rows = extent;
    if (d > 1 && extent != 1) {
      return absl::UnimplementedError(absl::StrCat(what, " has ", extent, " in dimension ", d,
                                                   ", only matrices are supported"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Entry> ReadEntry(ByteReader& in) {
  Entry entry;
  TS_ASSIGN_OR_RETURN(const std::string_view name, in.ReadString(kMaxKeyBytes, "GGUF tensor name"));
  entry.name = std::string(name);
  TS_RETURN_IF_ERROR(ReadShape(in, entry));
  TS_ASSIGN_OR_RETURN(const auto type, in.Read<uint32_t>("GGUF tensor type"));
  TS_ASSIGN_OR_RETURN(entry.dtype, DTypeOf(type, entry.name));
  TS_ASSIGN_OR_RETURN(entry.offset, in.Read<uint64_t>("GGUF tensor offset"));
  return entry;
}

absl::StatusOr<TensorView> Resolve(const Entry& entry, std::span<const std::byte> data,
                                   uint64_t alignment) {
  const auto bytes = TensorBytes(entry.dtype, entry.rows, entry.cols);
  if (!bytes.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", entry.name, ": ", std::string(bytes.status().message())));
  }
  const auto size = static_cast<uint64_t>(*bytes);
  if (entry.offset > data.size() || size > data.size() - entry.offset) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, " needs ", size,
                                                   " bytes at offset ", entry.offset,
                                                   ", the data section has ", data.size()));
  }
  if (entry.offset % alignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, " is at offset ",
                                                   entry.offset, ", must be a multiple of ",
                                                   alignment));
  }
  return TensorView{.dtype = entry.dtype,
                    .rows = entry.rows,
                    .cols = entry.cols,
                    .bytes = data.subspan(entry.offset, size)};
}

absl::Status CheckCount(std::string_view what, uint64_t count) {
  if (count <= kMaxEntries) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF file has ", count, " ", std::string(what), ", limit ", kMaxEntries));
}

struct Counts {
  uint64_t tensors = 0;
  uint64_t keys = 0;
};

absl::StatusOr<Counts> ReadHeader(ByteReader& in) {
  TS_ASSIGN_OR_RETURN(const auto magic, in.Read<uint32_t>("GGUF magic"));
  if (magic != kMagic) return absl::InvalidArgumentError("file does not start with \"GGUF\"");
  TS_ASSIGN_OR_RETURN(const auto version, in.Read<uint32_t>("GGUF version"));
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(absl::StrCat("GGUF version is ", version,
                                                 ", supported are 2 and 3 in little-endian order"));
  }
  Counts counts;
  TS_ASSIGN_OR_RETURN(counts.tensors, in.Read<uint64_t>("GGUF tensor count"));
  TS_ASSIGN_OR_RETURN(counts.keys, in.Read<uint64_t>("GGUF metadata count"));
  TS_RETURN_IF_ERROR(CheckCount("tensors", counts.tensors));
  TS_RETURN_IF_ERROR(CheckCount("metadata keys", counts.keys));
  return counts;
}

absl::StatusOr<uint64_t> Alignment(const Gguf& gguf) {
  TS_ASSIGN_OR_RETURN(const int64_t value, gguf.GetOr<int64_t>("general.alignment", 32));
  if (value >= 8 && value <= kMaxAlignment && std::has_single_bit(static_cast<uint64_t>(value))) {
    return static_cast<uint64_t>(value);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "general.alignment is ", value, ", must be a power of two from 8 to ", kMaxAlignment));
}

absl::Status DuplicateError(std::string_view what, std::string_view name) {
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF file has two ", std::string(what), " named ", std::string(name)));
}

template <typename T>
constexpr std::string_view kTypeName = "";
template <>
constexpr std::string_view kTypeName<int64_t> = "an integer";
template <>
constexpr std::string_view kTypeName<double> = "a float";
template <>
constexpr std::string_view kTypeName<bool> = "a bool";
template <>
constexpr std::string_view kTypeName<std::string_view> = "a string";
template <>
constexpr std::string_view kTypeName<std::vector<int64_t>> = "an array of integers";
template <>
constexpr std::string_view kTypeName<std::vector<double>> = "an array of floats";
template <>
constexpr std::string_view kTypeName<std::vector<std::string_view>> = "an array of strings";

}  // namespace

absl::StatusOr<Gguf> Gguf::Parse(std::span<const std::byte> file) {
  ByteReader in(file);
  TS_ASSIGN_OR_RETURN(const Counts counts, ReadHeader(in));
  Gguf gguf;
  for (uint64_t i = 0; i < counts.keys; ++i) {
    TS_ASSIGN_OR_RETURN(const std::string_view key, in.ReadString(kMaxKeyBytes, "GGUF key"));
    TS_ASSIGN_OR_RETURN(GgufValue value, ReadValue(in, key));
    if (!gguf.metadata_.emplace(key, std::move(value)).second) return DuplicateError("keys", key);
  }
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < counts.tensors; ++i) {
    TS_ASSIGN_OR_RETURN(Entry entry, ReadEntry(in));
    entries.push_back(std::move(entry));
  }
  TS_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment(gguf));
  const uint64_t padding = (alignment - in.offset() % alignment) % alignment;
  std::span<const std::byte> data;  // a file without tensors may end before the padding
  if (!entries.empty()) {
    TS_RETURN_IF_ERROR(in.ReadBytes(padding, "GGUF padding before the tensors").status());
    data = file.subspan(in.offset());
  }
  for (const Entry& entry : entries) {
    TS_ASSIGN_OR_RETURN(const TensorView view, Resolve(entry, data, alignment));
    if (!gguf.tensors_.emplace(entry.name, view).second)
      return DuplicateError("tensors", entry.name);
  }
  return gguf;
}

template <typename T>
absl::StatusOr<T> Gguf::Get(std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) {
    return absl::NotFoundError(absl::StrCat("GGUF key ", std::string(key), " is missing"));
  }
  if (const T* value = std::get_if<T>(&found->second)) return *value;
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF key ", std::string(key), " is not ", std::string(kTypeName<T>)));
}

template absl::StatusOr<int64_t> Gguf::Get(std::string_view) const;
template absl::StatusOr<double> Gguf::Get(std::string_view) const;
template absl::StatusOr<bool> Gguf::Get(std::string_view) const;
template absl::StatusOr<std::string_view> Gguf::Get(std::string_view) const;
template absl::StatusOr<std::vector<int64_t>> Gguf::Get(std::string_view) const;
template absl::StatusOr<std::vector<double>> Gguf::Get(std::string_view) const;
template absl::StatusOr<std::vector<std::string_view>> Gguf::Get(std::string_view) const;

}  // namespace tailor
