#include "common/model_file/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/common/model_file/gguf_bytes.h"

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kHuge = ~uint64_t{0};

// Bytes in a block of exactly their size, so that a sanitizer sees a read past the end.
class Parsed {
 public:
  explicit Parsed(const std::string& bytes)
      : bytes_(reinterpret_cast<const std::byte*>(bytes.data()),
               reinterpret_cast<const std::byte*>(bytes.data()) + bytes.size()),
        gguf(Gguf::Parse(bytes_)) {}

  bool Holds(const TensorView& view) const {
    return view.bytes.data() >= bytes_.data() &&
           view.bytes.data() + view.bytes.size() <= bytes_.data() + bytes_.size();
  }

 private:
  std::vector<std::byte> bytes_;

 public:
  absl::StatusOr<Gguf> gguf;
};

std::string ErrorOf(const GgufFile& file,
                    absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const Parsed parsed(file.Bytes());
  EXPECT_EQ(parsed.gguf.status().code(), code) << parsed.gguf.status();
  return std::string(parsed.gguf.status().message());
}

GgufFile Sample() {
  GgufFile file;
  file.keys = {GgufKey("u8", 0, Raw<uint8_t>(200)),
               GgufKey("i8", 1, Raw<int8_t>(-3)),
               GgufKey("u16", 2, Raw<uint16_t>(60000)),
               GgufKey("i16", 3, Raw<int16_t>(-300)),
               GgufKey("u32", 4, Raw<uint32_t>(4000000000)),
               GgufKey("i32", 5, Raw<int32_t>(-5)),
               GgufKey("f32", 6, Raw(1.5f)),
               GgufKey("bool", 7, Raw<uint8_t>(1)),
               GgufKey("text", 8, GgufString("hello")),
               GgufKey("ints", 9, GgufArray(5, 2, Raw<int32_t>(-1) + Raw<int32_t>(7))),
               GgufKey("floats", 9, GgufArray(6, 1, Raw(2.5f))),
               GgufKey("texts", 9, GgufArray(8, 2, GgufString("a") + GgufString(""))),
               GgufKey("u64", 10, Raw<uint64_t>(1) + ""),
               GgufKey("i64", 11, Raw<int64_t>(-7)),
               GgufKey("f64", 12, Raw(0.1))};
  file.tensors = {{.name = "matrix", .dims = {4, 2}, .type = 0, .offset = 0},
                  {.name = "vector", .dims = {8}, .type = 1, .offset = 32},
                  {.name = "blocks", .dims = {32, 2, 1}, .type = 3, .offset = 64}};
  file.data = std::string(64, 'm') + std::string(40, 'b');
  return file;
}

TEST(Gguf, AValidFileIsReadInFull) {
  const Parsed parsed(Sample().Bytes());
  ASSERT_TRUE(parsed.gguf.ok()) << parsed.gguf.status();
  const Gguf& gguf = *parsed.gguf;
  for (const auto& [key, value] : {std::pair<const char*, int64_t>{"u8", 200},
                                   {"i8", -3},
                                   {"u16", 60000},
                                   {"i16", -300},
                                   {"u32", 4000000000},
                                   {"i32", -5},
                                   {"u64", 1},
                                   {"i64", -7}}) {
    EXPECT_EQ(*gguf.Get<int64_t>(key), value) << key;
  }
  EXPECT_EQ(*gguf.Get<double>("f32"), 1.5);
  EXPECT_EQ(*gguf.Get<double>("f64"), 0.1);
  EXPECT_TRUE(*gguf.Get<bool>("bool"));
  EXPECT_EQ(*gguf.Get<std::string_view>("text"), "hello");
  EXPECT_THAT(*gguf.Get<std::vector<int64_t>>("ints"), ElementsAre(-1, 7));
  EXPECT_THAT(*gguf.Get<std::vector<double>>("floats"), ElementsAre(2.5));
  EXPECT_THAT(*gguf.Get<std::vector<std::string_view>>("texts"), ElementsAre("a", ""));
  ASSERT_EQ(gguf.tensors().size(), 3u);
  const TensorView& blocks = gguf.tensors().at("blocks");
  EXPECT_EQ(blocks.dtype, DType::kQ4_1);
  EXPECT_EQ(blocks.rows, 2);
  EXPECT_EQ(blocks.cols, 32);
  EXPECT_EQ(blocks.bytes.size(), 40u);
  EXPECT_EQ(blocks.bytes[0], std::byte{'b'});
  EXPECT_EQ(gguf.tensors().at("vector").rows, 1);
}

TEST(Gguf, AKeyOfAnotherTypeOrNoneIsAnError) {
  const Parsed parsed(Sample().Bytes());
  ASSERT_TRUE(parsed.gguf.ok());
  const auto wrong = parsed.gguf->Get<bool>("text");
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.status().message()), AllOf(HasSubstr("text"), HasSubstr("a bool")));
  EXPECT_EQ(parsed.gguf->Get<bool>("none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*parsed.gguf->GetOr<int64_t>("none", 5), 5);
  EXPECT_FALSE(parsed.gguf->GetOr<int64_t>("text", 5).ok());
}

TEST(Gguf, EveryShorterFileIsAnError) {
  const std::string bytes = Sample().Bytes();
  for (size_t length = 0; length < bytes.size(); ++length) {
    const Parsed parsed(bytes.substr(0, length));
    ASSERT_FALSE(parsed.gguf.ok()) << "cut to " << length << " of " << bytes.size();
    ASSERT_FALSE(parsed.gguf.status().message().empty());
  }
}

// Whatever one byte becomes: a status, or views that lie inside the file.
TEST(Gguf, NoChangedByteLeadsOutsideTheFile) {
  const std::string bytes = Sample().Bytes();
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(value);
      const Parsed parsed(changed);
      if (!parsed.gguf.ok()) continue;
      for (const auto& [name, view] : parsed.gguf->tensors()) {
        ASSERT_TRUE(parsed.Holds(view)) << "byte " << at << " is " << value;
      }
    }
  }
}

TEST(Gguf, TheHeaderIsChecked) {
  GgufFile file = Sample();
  file.magic = 0x47475546;
  EXPECT_THAT(ErrorOf(file), HasSubstr("\"GGUF\""));
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u}) {
    file = Sample();
    file.version = version;
    EXPECT_THAT(ErrorOf(file, absl::StatusCode::kUnimplemented),
                AllOf(HasSubstr(std::to_string(version)), HasSubstr("2 and 3")));
  }
  for (const uint64_t count : {kHuge, uint64_t{1} << 63, (uint64_t{1} << 20) + 1}) {
    file = Sample();
    file.tensor_count = count;
    EXPECT_THAT(ErrorOf(file),
                AllOf(HasSubstr(std::to_string(count) + " tensors"), HasSubstr("limit 1048576")));
    file = Sample();
    file.key_count = count;
    EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr(std::to_string(count) + " metadata keys"),
                                     HasSubstr("limit 1048576")));
  }
  file = Sample();
  file.key_count = 16;
  EXPECT_FALSE(ErrorOf(file).empty()) << "a tensor's entry read as a key";
}

TEST(Gguf, StringLengthsNearTheTopOf64BitsAreRefused) {
  for (const uint64_t length : {kHuge, kHuge - 7, uint64_t{1} << 63, uint64_t{70000}}) {
    GgufFile file;
    file.keys = {Raw(length) + "name" + Raw<uint32_t>(7) + Raw<uint8_t>(1)};
    EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr(std::to_string(length)), HasSubstr("limit 65535")));
  }
  for (const uint64_t length : {kHuge, uint64_t{1} << 40}) {
    GgufFile file;
    file.keys = {GgufKey("text", 8, Raw(length) + "abc")};
    EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("text"), HasSubstr("limit 16777216")));
    file.keys = {GgufKey("texts", 9, GgufArray(8, 1, Raw(length) + "abc"))};
    EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("texts"), HasSubstr(std::to_string(length))));
  }
  GgufFile file;
  file.keys = {GgufKey("text", 8, Raw<uint64_t>(9) + "abc")};
  EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("text needs 9 bytes"), HasSubstr("has 3 left")));
}

TEST(Gguf, ArrayCountsThatTheFileCannotHoldAreRefusedBeforeAnythingIsReserved) {
  for (const uint32_t type : {0u, 5u, 6u, 8u, 10u, 12u}) {
    for (const uint64_t count : {kHuge, kHuge / 8 + 1, uint64_t{1} << 40, uint64_t{65}}) {
      GgufFile file;
      file.keys = {GgufKey("list", 9, GgufArray(type, count, std::string(64, '\0')))};
      EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("list has " + std::to_string(count) + " elements"),
                                       HasSubstr("room for")));
    }
  }
}

TEST(Gguf, UnknownTypesAreUnimplementedByNumber) {
  for (const uint32_t type : {13u, 99u, 0xffffffffu}) {
    GgufFile file;
    file.keys = {GgufKey("odd", type, std::string(16, '\0'))};
    EXPECT_THAT(ErrorOf(file, absl::StatusCode::kUnimplemented),
                AllOf(HasSubstr("odd"), HasSubstr(std::to_string(type))));
    file.keys = {GgufKey("odd", 9, GgufArray(type, 1, std::string(16, '\0')))};
    EXPECT_THAT(ErrorOf(file, absl::StatusCode::kUnimplemented), HasSubstr(std::to_string(type)));
  }
  GgufFile file;
  file.keys = {GgufKey("nested", 9, GgufArray(9, 1, GgufArray(5, 1, Raw<int32_t>(1))))};
  EXPECT_THAT(ErrorOf(file, absl::StatusCode::kUnimplemented), HasSubstr("nested"));
  file = Sample();
  file.tensors[0].type = 13;
  EXPECT_THAT(ErrorOf(file, absl::StatusCode::kUnimplemented),
              AllOf(HasSubstr("tensor matrix"), HasSubstr("13 (Q5_K)"), HasSubstr("Q4_1")));
  file.tensors[0].type = 1000;
  EXPECT_THAT(ErrorOf(file, absl::StatusCode::kUnimplemented), HasSubstr("1000 (unknown)"));
}

TEST(Gguf, ValuesThatFitNowhereAreRefused) {
  GgufFile file;
  file.keys = {GgufKey("flag", 7, Raw<uint8_t>(2))};
  EXPECT_THAT(ErrorOf(file), HasSubstr("flag is bool 2, must be 0 or 1"));
  file.keys = {GgufKey("big", 10, Raw(uint64_t{1} << 63))};
  EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("big is 9223372036854775808"),
                                   HasSubstr("limit 9223372036854775807")));
}

TEST(Gguf, AlignmentIsAPowerOfTwoInRange) {
  for (const int64_t value : {-32, 0, 1, 4, 24, 33, 1 << 21}) {
    GgufFile file = Sample();
    file.keys.push_back(GgufKey("general.alignment", 11, Raw(value)));
    EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("general.alignment is " + std::to_string(value)),
                                     HasSubstr("from 8 to 1048576")));
  }
  GgufFile file = Sample();
  file.keys.push_back(GgufKey("general.alignment", 4, Raw<uint32_t>(8)));
  file.alignment = 8;
  EXPECT_TRUE(Parsed(file.Bytes()).gguf.ok()) << "all offsets are multiples of 8";
  file.keys.back() = GgufKey("general.alignment", 4, Raw<uint32_t>(64));
  file.alignment = 64;
  EXPECT_THAT(ErrorOf(file), HasSubstr("tensor vector is at offset 32, must be a multiple of 64"));
}

TEST(Gguf, OffsetsOutsideTheDataAreRefused) {
  for (const uint64_t offset :
       {kHuge, kHuge - 31, uint64_t{1} << 63, uint64_t{96}, uint64_t{128}}) {
    GgufFile file = Sample();
    file.tensors[0].offset = offset;
    EXPECT_THAT(ErrorOf(file),
                AllOf(HasSubstr("tensor matrix needs 32 bytes at offset " + std::to_string(offset)),
                      HasSubstr("data section has 104")));
  }
  GgufFile file = Sample();
  file.tensors[0].offset = 1;
  EXPECT_THAT(ErrorOf(file), HasSubstr("tensor matrix is at offset 1, must be a multiple of 32"));
}

TEST(Gguf, ShapesThatOverflowOrAreEmptyAreRefused) {
  const auto error = [](std::vector<uint64_t> dims, absl::StatusCode code) {
    GgufFile file = Sample();
    file.tensors[0].dims = std::move(dims);
    return ErrorOf(file, code);
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(error({uint64_t{1} << 62, uint64_t{1} << 62}, kInvalid), HasSubstr("matrix"));
  EXPECT_THAT(error({uint64_t{1} << 32, uint64_t{1} << 31}, kInvalid), HasSubstr("overflows"));
  EXPECT_THAT(error({uint64_t{1} << 30, uint64_t{1} << 30}, kInvalid), HasSubstr("needs"));
  EXPECT_THAT(error({kHuge}, kInvalid), HasSubstr("18446744073709551615"));
  EXPECT_THAT(error({0}, kInvalid), HasSubstr("matrix"));
  EXPECT_THAT(error({4, 0}, kInvalid), HasSubstr("0 x 4"));
  EXPECT_THAT(error({}, kInvalid), HasSubstr("0 dimensions, limit 1 to 4"));
  EXPECT_THAT(error({4, 2, 1, 1, 1}, kInvalid), HasSubstr("5 dimensions, limit 1 to 4"));
  EXPECT_THAT(error({4, 2, 3}, absl::StatusCode::kUnimplemented), HasSubstr("3 in dimension 2"));
  GgufFile file = Sample();
  file.tensors[2].dims = {33};
  EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("blocks"), HasSubstr("33"), HasSubstr("block of 32")));
}

TEST(Gguf, TwoOfOneNameAreRefused) {
  GgufFile file = Sample();
  file.keys.push_back(file.keys[0]);
  EXPECT_THAT(ErrorOf(file), HasSubstr("two keys named u8"));
  file = Sample();
  file.tensors[1].name = "matrix";
  EXPECT_THAT(ErrorOf(file), HasSubstr("two tensors named matrix"));
}

TEST(Gguf, AFileWithoutTensorsMayEndAtItsLastKey) {
  GgufFile file;
  file.keys = {GgufKey("a", 7, Raw<uint8_t>(0))};
  EXPECT_TRUE(Parsed(file.Bytes()).gguf.ok());
}

}  // namespace
}  // namespace tailor
