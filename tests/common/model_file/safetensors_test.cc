#include "common/model_file/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/common/model_file/gguf_bytes.h"
#include "tests/common/model_file/small_llama.h"

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Spaces pad the header to a multiple of 8, as writers do.
std::string File(std::string header, size_t data_bytes) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return Raw<uint64_t>(header.size()) + header + std::string(data_bytes, 'd');
}

struct Parsed {
  explicit Parsed(const std::string& text)
      : bytes(reinterpret_cast<const std::byte*>(text.data()),
              reinterpret_cast<const std::byte*>(text.data()) + text.size()),
        tensors(ParseSafetensors(bytes)) {}
  std::vector<std::byte> bytes;
  absl::StatusOr<std::map<std::string, TensorView, std::less<>>> tensors;
};

std::string ErrorOf(const std::string& file,
                    absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const Parsed parsed(file);
  EXPECT_EQ(parsed.tensors.status().code(), code) << parsed.tensors.status();
  return std::string(parsed.tensors.status().message());
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":" + dtype + ",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

const std::string kGood = "{" + Entry("a", "\"F32\"", "[2,3]", "[0,24]") + "," +
                          Entry("b", "\"BF16\"", "[4]", "[24,32]") +
                          ",\"__metadata__\":{\"x\":\"y\"}}";

TEST(Safetensors, AValidFileIsReadInFull) {
  const Parsed parsed(File(kGood, 32));
  ASSERT_TRUE(parsed.tensors.ok()) << parsed.tensors.status();
  ASSERT_EQ(parsed.tensors->size(), 2u);
  const TensorView& a = parsed.tensors->at("a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.rows, 2);
  EXPECT_EQ(a.cols, 3);
  EXPECT_EQ(a.bytes.size(), 24u);
  const TensorView& b = parsed.tensors->at("b");
  EXPECT_EQ(b.rows, 1);
  EXPECT_EQ(b.cols, 4);
  EXPECT_EQ(b.bytes.data(), a.bytes.data() + 24);
}

TEST(Safetensors, EveryShorterFileIsAnError) {
  const std::string file = File(kGood, 32);
  for (size_t length = 0; length < file.size(); ++length) {
    ASSERT_FALSE(Parsed(file.substr(0, length)).tensors.ok()) << "cut to " << length;
  }
}

TEST(Safetensors, NoChangedByteLeadsOutsideTheFile) {
  const std::string file = File(kGood, 32);
  for (size_t at = 0; at < file.size() - 32; ++at) {
    for (const int value : {0x00, 0x22, 0x30, 0x39, 0x5d, 0x7d, 0xff}) {
      std::string changed = file;
      changed[at] = static_cast<char>(value);
      const Parsed parsed(changed);
      if (!parsed.tensors.ok()) continue;
      for (const auto& [name, view] : *parsed.tensors) {
        ASSERT_GE(view.bytes.data(), parsed.bytes.data());
        ASSERT_LE(view.bytes.data() + view.bytes.size(), parsed.bytes.data() + parsed.bytes.size());
      }
    }
  }
}

TEST(Safetensors, AHeaderLengthThatTheFileCannotHoldIsRefused) {
  for (const uint64_t length : {~uint64_t{0}, uint64_t{1} << 63, uint64_t{100'000'001}}) {
    EXPECT_THAT(
        ErrorOf(Raw(length) + kGood),
        AllOf(HasSubstr("header is " + std::to_string(length)), HasSubstr("limit 100000000")));
  }
  EXPECT_THAT(ErrorOf(Raw<uint64_t>(1000) + "{}"),
              AllOf(HasSubstr("needs 1000"), HasSubstr("2 left")));
  for (const char* header : {"", "[]", "{", "null", "{}x", "{\"a\":1,}", "\xff"}) {
    EXPECT_FALSE(ErrorOf(Raw<uint64_t>(std::string(header).size()) + header).empty());
  }
}

TEST(Safetensors, BrokenEntriesAreRefusedByName) {
  const auto error = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets,
                        absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    return ErrorOf(File("{" + Entry("w", dtype, shape, offsets) + "}", 24), code);
  };
  const auto kUnimplemented = absl::StatusCode::kUnimplemented;
  EXPECT_THAT(error("\"F64\"", "[3]", "[0,24]", kUnimplemented),
              AllOf(HasSubstr("w has dtype F64"), HasSubstr("BF16")));
  EXPECT_THAT(error("null", "[3]", "[0,24]", kUnimplemented), HasSubstr("dtype none"));
  EXPECT_THAT(error("7", "[3]", "[0,24]"), HasSubstr("dtype is 7"));
  EXPECT_THAT(error("\"F32\"", "[]", "[0,24]"), HasSubstr("shape"));
  EXPECT_THAT(error("\"F32\"", "[1,2,3]", "[0,24]"), HasSubstr("1 to 2 integers"));
  EXPECT_THAT(error("\"F32\"", "[-6]", "[0,24]"), HasSubstr("63-bit"));
  EXPECT_THAT(error("\"F32\"", "[6.0]", "[0,24]"), HasSubstr("63-bit"));
  EXPECT_THAT(error("\"F32\"", "[18446744073709551615]", "[0,24]"), HasSubstr("63-bit"));
  EXPECT_THAT(error("\"F32\"", "[4611686018427387904,4]", "[0,24]"), HasSubstr("overflows"));
  EXPECT_THAT(error("\"F32\"", "[0,6]", "[0,0]"), HasSubstr("empty"));
  EXPECT_THAT(error("\"F32\"", "[6]", "[24,0]"), HasSubstr("from 24 to 0"));
  EXPECT_THAT(error("\"F32\"", "[7]", "[0,28]"),
              AllOf(HasSubstr("from 0 to 28"), HasSubstr("has 24 bytes")));
  EXPECT_THAT(error("\"F32\"", "[5]", "[0,24]"),
              AllOf(HasSubstr("has 24 bytes"), HasSubstr("imply 20")));
  EXPECT_THAT(error("\"F32\"", "[6]", "[0]"), HasSubstr("data_offsets"));
  EXPECT_THAT(ErrorOf(File("{\"w\":3}", 0)), HasSubstr("tensor w"));
}

TEST(Safetensors, GapsOverlapsLeftoversAndDuplicatesAreRefused) {
  const auto two = [](const std::string& first, const std::string& second, size_t bytes) {
    return ErrorOf(File("{" + Entry("a", "\"F32\"", "[2]", first) + "," +
                            Entry("b", "\"F32\"", "[2]", second) + "}",
                        bytes));
  };
  EXPECT_THAT(two("[0,8]", "[12,20]", 20),
              HasSubstr("tensor b starts at 12, the one before ends at 8"));
  EXPECT_THAT(two("[0,8]", "[4,12]", 12), HasSubstr("tensor b starts at 4"));
  EXPECT_THAT(two("[0,8]", "[0,8]", 8), HasSubstr("starts at 0"));
  EXPECT_THAT(two("[0,8]", "[8,16]", 17), AllOf(HasSubstr("17 bytes"), HasSubstr("use 16")));
  EXPECT_THAT(ErrorOf(File("{" + Entry("a", "\"F32\"", "[2]", "[0,8]") + "," +
                               Entry("a", "\"F32\"", "[2]", "[0,8]") + "}",
                           8)),
              HasSubstr("tensor a is listed twice"));
}

TEST(Safetensors, ATensorOffItsElementsBorderIsRefused) {
  const std::string header = "{" + Entry("a", "\"F32\"", "[2]", "[0,8]") + "}";
  const std::string odd(header.size() % 4 == 0 ? 1 : 0, ' ');
  const std::string file =
      Raw<uint64_t>((header + odd).size()) + header + odd + std::string(8, 'd');
  EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("tensor a is at byte"), HasSubstr("multiple of 4")));
}

// nlohmann::json prints a value by recursion: an error must not print this one.
TEST(Safetensors, AValueNestedAMillionDeepIsRefusedNotPrinted) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  EXPECT_THAT(ErrorOf(File("{" + Entry("w", deep, "[6]", "[0,24]") + "}", 24)),
              HasSubstr("deeper"));
  EXPECT_THAT(ErrorOf(File("{" + Entry("w", "\"F32\"", deep, "[0,24]") + "}", 24)),
              HasSubstr("deeper"));
}

TEST(Safetensors, ASmallModelIsReadBack) {
  const SmallLlama model = MakeSmallLlama();
  const Parsed parsed(SafetensorsOf(model));
  ASSERT_TRUE(parsed.tensors.ok()) << parsed.tensors.status();
  EXPECT_EQ(parsed.tensors->size(), model.tensors.size());
}

}  // namespace
}  // namespace tailor
