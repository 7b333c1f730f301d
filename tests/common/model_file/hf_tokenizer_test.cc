#include "common/model_file/hf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "tests/common/model_file/small_llama.h"

namespace tailor {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

json Good() { return json::parse(TokenizerJsonOf(MakeSmallLlama())); }

std::string ErrorAfter(const std::function<void(json&)>& change, absl::StatusCode code) {
  json root = Good();
  change(root);
  const auto spec = ParseHfTokenizer(root.dump());
  EXPECT_EQ(spec.status().code(), code) << spec.status();
  return std::string(spec.status().message());
}
std::string Invalid(const std::function<void(json&)>& change) {
  return ErrorAfter(change, absl::StatusCode::kInvalidArgument);
}
std::string Unimplemented(const std::function<void(json&)>& change) {
  return ErrorAfter(change, absl::StatusCode::kUnimplemented);
}

TEST(HfTokenizer, ASmallTokenizerIsReadInFull) {
  const TokenizerSpec want = MakeSmallLlama().tokenizer;
  const auto got = ParseHfTokenizer(Good().dump());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->tokens, want.tokens);
  EXPECT_EQ(got->kinds, want.kinds);
  EXPECT_EQ(got->merges, want.merges);
  EXPECT_EQ(got->pre_tokenizer, "smollm");
  EXPECT_FALSE(got->ignore_merges);
  EXPECT_FALSE(got->add_bos);
}

TEST(HfTokenizer, MergesMayBePairs) {
  json root = Good();
  root["model"]["merges"] = json::parse(R"([["t", "h"], ["th", "e"]])");
  EXPECT_EQ(ParseHfTokenizer(root.dump())->merges, MakeSmallLlama().tokenizer.merges);
  EXPECT_THAT(Invalid([](json& r) {
                r["model"]["merges"] = {{"t", "h", "e"}};
              }),
              HasSubstr("merge"));
  EXPECT_THAT(Invalid([](json& r) { r["model"]["merges"] = {7}; }), HasSubstr("merge"));
  EXPECT_THAT(Invalid([](json& r) { r["model"].erase("merges"); }), HasSubstr("model.merges"));
}

TEST(HfTokenizer, HolesInTheTableAreUnused) {
  json root = Good();
  root["added_tokens"].push_back({{"id", 270}, {"content", "<far>"}, {"special", true}});
  const auto spec = ParseHfTokenizer(root.dump());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->tokens.size(), 271u);
  EXPECT_EQ(spec->kinds[269], TokenKind::kUnused);
  EXPECT_EQ(spec->kinds[270], TokenKind::kControl);
}

TEST(HfTokenizer, IdsThatAreFarNegativeOrTakenAreRefused) {
  for (const json& id : {json(-1), json(1.5), json("7"), json(uint64_t{1} << 63), json(1 << 24)}) {
    EXPECT_THAT(Invalid([&](json& r) { r["model"]["vocab"]["th"] = id; }), HasSubstr("\"th\""));
    EXPECT_THAT(Invalid([&](json& r) { r["added_tokens"][0]["id"] = id; }),
                HasSubstr("<|endoftext|>"));
  }
  EXPECT_THAT(Invalid([](json& r) { r["model"]["vocab"]["th"] = 100000; }), HasSubstr("id 100000"));
  EXPECT_THAT(Invalid([](json& r) { r["added_tokens"][0]["id"] = 100000; }),
              HasSubstr("id 100000"));
  EXPECT_THAT(Invalid([](json& r) { r["added_tokens"][0]["id"] = 5; }),
              AllOf(HasSubstr("token 5 is both"), HasSubstr("<|endoftext|>")));
  EXPECT_THAT(Invalid([](json& r) { r["added_tokens"][0].erase("content"); }),
              HasSubstr("added_tokens"));
  EXPECT_THAT(Invalid([](json& r) { r["added_tokens"] = 1; }), HasSubstr("added_tokens"));
}

TEST(HfTokenizer, Qwen2sPatternIsKnownAndItsNormalizerLeftOut) {
  json root = json::parse(TokenizerJsonOf(MakeSmallQwen2()));
  EXPECT_EQ(root["normalizer"]["type"], "NFC");
  const auto spec = ParseHfTokenizer(root.dump());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->pre_tokenizer, "qwen2");
  root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\p{N}{1,2}|\\P{N}+";
  EXPECT_EQ(ParseHfTokenizer(root.dump()).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(HfTokenizer, OtherKindsOfTokenizersAreUnimplementedByName) {
  EXPECT_THAT(Unimplemented([](json& r) { r["model"]["type"] = "Unigram"; }), HasSubstr("Unigram"));
  EXPECT_THAT(Unimplemented([](json& r) { r.erase("model"); }), HasSubstr("none"));
  EXPECT_THAT(Unimplemented([](json& r) { r["model"]["byte_fallback"] = true; }),
              HasSubstr("byte"));
  EXPECT_THAT(Unimplemented([](json& r) {
                r["normalizer"] = {{"type", "NFKC"}};
              }),
              HasSubstr("NFKC"));
  EXPECT_THAT(Unimplemented([](json& r) {
                r["pre_tokenizer"] = {{"type", "Metaspace"}};
              }),
              HasSubstr("Metaspace"));
  EXPECT_THAT(Unimplemented([](json& r) {
                r["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true;
              }),
              HasSubstr("pre_tokenizer"));
}

// The reference would take the blanks beside such a token with it.
TEST(HfTokenizer, AddedTokensThatReachBeyondTheirTextAreUnimplemented) {
  for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
    EXPECT_THAT(Unimplemented([&](json& r) { r["added_tokens"][3][flag] = true; }),
                AllOf(HasSubstr("<tool>"), HasSubstr(flag)));
    json control = Good();
    control["added_tokens"][0][flag] = true;  // never found in text: no difference
    EXPECT_TRUE(ParseHfTokenizer(control.dump()).ok());
  }
}

TEST(HfTokenizer, ATokenThatThePostProcessorPrependsIsABos) {
  json root = Good();
  const json single = {{{"SpecialToken", {{"id", "<|im_start|>"}}}}, {{"Sequence", {{"id", "A"}}}}};
  root["post_processor"] = {{"type", "TemplateProcessing"}, {"single", single}};
  EXPECT_TRUE(ParseHfTokenizer(root.dump())->add_bos);
  root["post_processor"] = {{"type", "Sequence"},
                            {"processors", {{{"type", "ByteLevel"}}, root["post_processor"]}}};
  EXPECT_TRUE(ParseHfTokenizer(root.dump())->add_bos);
  root["post_processor"] = {{"type", "ByteLevel"}};
  EXPECT_FALSE(ParseHfTokenizer(root.dump())->add_bos);
}

TEST(HfTokenizer, EveryShorterTextIsAnError) {
  const std::string text = Good().dump();
  for (size_t length = 0; length < text.size(); ++length) {
    ASSERT_FALSE(ParseHfTokenizer(std::string_view(text).substr(0, length)).ok()) << length;
  }
}

TEST(HfTokenizer, ValuesNestedAMillionDeepAreRefusedNotPrinted) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  for (const std::string key : {"model", "added_tokens", "pre_tokenizer", "normalizer"}) {
    EXPECT_FALSE(ParseHfTokenizer("{\"" + key + "\":" + deep + "}").ok()) << key;
  }
  std::string text = Good().dump();
  const std::string content = "\"<tool>\"";
  text.replace(text.find(content), content.size(), deep);
  EXPECT_FALSE(ParseHfTokenizer(text).ok());
}

}  // namespace
}  // namespace tailor
