#include "worker/quality/result_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

const json kHeader = {{"weights", "aa"}, {"windows", 4}};

class ResultLogTest : public ::testing::Test {
 protected:
  absl::StatusOr<ResultLog> Open(const json& header = kHeader) {
    return ResultLog::Open(dir_ / "log", header);
  }
  void AppendRaw(const std::string& bytes) {
    std::ofstream(dir_ / "log" / "m.jsonl", std::ios::app) << bytes;
  }
  ScratchDir dir_;
};

TEST_F(ResultLogTest, WhatWasAppendedIsFoundByTheNextRun) {
  {
    auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    ASSERT_TRUE(log->Read("m").ok());
    EXPECT_EQ(log->Find("m", "one"), nullptr);
    ASSERT_TRUE(log->Append("m", {{"id", "one"}, {"output", "a\nb \xc3\xa9"}}).ok());
    EXPECT_NE(log->Find("m", "one"), nullptr);
  }
  auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_TRUE(log->Read("m").ok());
  ASSERT_TRUE(log->Read("other").ok());
  ASSERT_NE(log->Find("m", "one"), nullptr);
  EXPECT_EQ((*log->Find("m", "one"))["output"], "a\nb \xc3\xa9");
  EXPECT_EQ(log->Find("m", "two"), nullptr);
  EXPECT_EQ(log->Find("other", "one"), nullptr);
}

TEST_F(ResultLogTest, ALineThatWasCutShortIsRemovedAndWrittenAnew) {
  {
    auto log = Open();
    ASSERT_TRUE(log->Read("m").ok());
    ASSERT_TRUE(log->Append("m", {{"id", "one"}}).ok());
  }
  AppendRaw(R"({"id": "two", "outp)");
  {
    auto log = Open();
    ASSERT_TRUE(log->Read("m").ok());
    EXPECT_EQ(log->Find("m", "two"), nullptr);
    ASSERT_TRUE(log->Append("m", {{"id", "two"}}).ok());
  }
  auto log = Open();
  ASSERT_TRUE(log->Read("m").ok());
  EXPECT_NE(log->Find("m", "one"), nullptr);
  EXPECT_NE(log->Find("m", "two"), nullptr);
}

TEST_F(ResultLogTest, ADamagedLineIsNamedAndNotPassedOver) {
  ASSERT_TRUE(Open().ok());
  AppendRaw("{\"id\": \"one\"}\nnonsense\n");
  auto log = Open();
  const absl::Status status = log->Read("m");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("line at byte 14"));
}

TEST_F(ResultLogTest, AnotherRunsFolderIsRefusedNamingWhatDiffers) {
  ASSERT_TRUE(Open().ok());
  const auto other = Open({{"weights", "bb"}, {"windows", 4}});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()),
              AllOf(HasSubstr("weights"), HasSubstr("aa"), HasSubstr("bb")));
  EXPECT_TRUE(Open().ok()) << "the refusal has changed nothing";
}

TEST_F(ResultLogTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(dir_ / "log") << "a file is in the way";
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tailor
