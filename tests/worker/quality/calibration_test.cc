// Whole calibrations of a tiny model of random weights: limits, resumption, evidence.
#include "worker/quality/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;

absl::Status NoProgress(const std::string&, int64_t, int64_t) { return absl::OkStatus(); }

class CalibrationTest : public ::testing::Test {
 protected:
  CalibrationTest() {
    WriteTinyModel(dir_ / "tiny.gguf", {.embedding_scale = 0.1f});
    Write("text.txt", 1);
    options_.texts = {dir_ / "text.txt"};
    options_.text = {.context_tokens = 500, .decode_tokens = 4, .windows = 2};
    options_.scoring.threshold = 0.1;
    options_.space = {.top_k = {16, 32, 64, 128},
                      .bits = {2, 8},
                      .residual_tokens = {64, 128},
                      .channels = {8, 24},
                      .rescore_extra = {0, 64},
                      .tail_gain = {0.25f}};
    options_.threads = 1;
    options_.out = dir_ / "out";
    options_.tool = "9.8.7";
  }
  void Write(const char* name, int seed) {
    std::ofstream text(dir_ / name);
    for (int i = 0; i < 300; ++i) text << "line " << i * i * seed % 977 << "\n";
  }
  absl::StatusOr<std::unique_ptr<Calibration>> Plan() {
    return Calibration::Plan(*ModelFile::Open(dir_ / "tiny.gguf"), options_);
  }
  absl::StatusOr<CalibrationResult> Run(const ProgressFn& progress = NoProgress) {
    TS_ASSIGN_OR_RETURN(auto plan, Plan());
    return plan->Run(progress);
  }
  std::string Log() {
    std::ifstream file(dir_ / "out/measured/measured.jsonl");
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // Windows prefilled, policies measured: what a run had to do.
  struct Work {
    int prefills = 0, tokens = 0;
  };
  absl::StatusOr<CalibrationResult> RunCounting(Work* work) {
    return Run([work](const std::string& label, int64_t, int64_t) {
      work->prefills += label.find("prefill 100%") != label.npos;
      work->tokens += label.find("token 1 of") != label.npos;
      return absl::OkStatus();
    });
  }

  ScratchDir dir_;
  CalibrationOptions options_;
};

TEST_F(CalibrationTest, TheResultHoldsScoresPolicyAndEvidence) {
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->meets_limits);
  EXPECT_EQ(result->scoring.last_queries, 4) << "no more than are decoded";
  ASSERT_EQ(result->scores.size(), 4u);
  EXPECT_EQ(result->dense_layers, DenseLayers(result->scores, result->scoring));
  EXPECT_EQ(result->search.chosen, ChooseMeasured(result->search.measured, result->search.limits));
  EXPECT_EQ(result->held_out.tokens, 4) << "one window, of the text itself";
  ASSERT_NE(result->policy.calibration, nullptr);
  const CalibrationEvidence& evidence = *result->policy.calibration;
  EXPECT_EQ(evidence.policy, result->policy.fingerprint());
  EXPECT_EQ(evidence.tool, "9.8.7");
  EXPECT_EQ(evidence.scores, result->scores);
  EXPECT_EQ(evidence.held_out.kl, result->held_out.kl.mean);
  EXPECT_EQ(evidence.tried.size(), result->search.measured.size());
  ASSERT_EQ(evidence.texts.size(), 1u);
  EXPECT_EQ(evidence.texts[0].name, "text.txt");
  EXPECT_TRUE(evidence.held_out_texts.empty());
}

TEST_F(CalibrationTest, TheTextsFingerprintIsItsSha256) {
  std::ofstream(dir_ / "text.txt", std::ios::app) << "one line more\n";
  const std::string text = *ReadWholeFile(dir_ / "text.txt", 1 << 20);
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->policy.calibration->texts[0].sha256,
            Fingerprinter().AddBytes(std::as_bytes(std::span(text))).Finish());
}

TEST_F(CalibrationTest, ThePolicyIsReadBackAndRefusedForOtherWeights) {
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const auto back = LayerPolicy::FromJson(result->policy.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->ToJson(), result->policy.ToJson());
  auto file = *ModelFile::Open(dir_ / "tiny.gguf");
  EXPECT_TRUE(back->Validate(file->hyperparameters(), file->fingerprint()).ok());
  WriteTinyModel(dir_ / "other.gguf", {.seed = 2});
  auto other = *ModelFile::Open(dir_ / "other.gguf");
  EXPECT_EQ(back->Validate(other->hyperparameters(), other->fingerprint()).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(CalibrationTest, TheSameInputsGiveTheSameBytes) {
  const auto first = Run();
  options_.out = dir_ / "again";
  options_.threads = 3;
  const auto again = Run();
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(first->policy.ToJson(), again->policy.ToJson());
}

TEST_F(CalibrationTest, AFinishedRunIsSummedUpWithoutMeasuring) {
  const auto first = Run();
  ASSERT_TRUE(first.ok());
  Work work;
  const auto again = RunCounting(&work);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(work.prefills, 0);
  EXPECT_EQ(again->policy.ToJson(), first->policy.ToJson());
}

TEST_F(CalibrationTest, AnInterruptedRunGoesOnAsIfNothingHadBeen) {
  const auto whole = Run();
  ASSERT_TRUE(whole.ok());
  const std::string log = Log();
  options_.out = dir_ / "out2";
  for (const int steps : {3, 40, 90}) {
    int step = 0;
    const auto stopped = Run([&](const std::string&, int64_t, int64_t) {
      return ++step > steps ? absl::CancelledError("stop") : absl::OkStatus();
    });
    EXPECT_EQ(stopped.status().code(), absl::StatusCode::kCancelled) << steps;
  }
  const auto resumed = Run();
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->policy.ToJson(), whole->policy.ToJson());
}

TEST_F(CalibrationTest, OtherLimitsMeasureOnlyWhatIsMissing) {
  const auto first = Run();
  ASSERT_TRUE(first.ok());
  options_.limits.fetched_bytes = first->search.limits.fetched_bytes.value() / 2;
  Work work;
  const auto half = RunCounting(&work);
  ASSERT_TRUE(half.ok()) << half.status();
  EXPECT_TRUE(half->meets_limits);
  EXPECT_LE(half->search.measured[half->search.chosen].cost.fetched_bytes,
            *options_.limits.fetched_bytes);
  size_t known = 0;
  for (const MeasuredPolicy& a : half->search.measured) {
    for (const MeasuredPolicy& b : first->search.measured) {
      if (a.policy.fingerprint() != b.policy.fingerprint()) continue;
      ++known;
      EXPECT_EQ(a.kl(), b.kl());
    }
  }
  ASSERT_GE(known, 4u) << "the ladder at least";
  // Each window of a policy measured anew decodes once; so do the full caches, and the held-out
  // window's policies.
  const size_t anew = half->search.measured.size() - known;
  EXPECT_LE(work.tokens, static_cast<int>(2 * anew + 2 + 1 + 2));
}

TEST_F(CalibrationTest, ALimitThatNothingKeepsIsSaid) {
  options_.limits.device_bytes = 1;
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->meets_limits);
  options_.limits = {.device_bytes = {}, .fetched_bytes = {}, .kl = 1e-12};
  const auto floor = Run();
  ASSERT_TRUE(floor.ok()) << floor.status();
  EXPECT_FALSE(floor->meets_limits);
}

TEST_F(CalibrationTest, AQualityIsReachedWithTheFewestBytesMeasured) {
  const auto first = Run();
  ASSERT_TRUE(first.ok());
  const auto& measured = first->search.measured;
  options_.limits.kl = measured[0].kl() * 1.05;
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->meets_limits);
  const MeasuredPolicy& chosen = result->search.measured[result->search.chosen];
  EXPECT_LE(chosen.kl(), *options_.limits.kl);
  for (const MeasuredPolicy& m : result->search.measured) {
    if (m.kl() <= *options_.limits.kl) {
      EXPECT_GE(m.cost.fetched_bytes, chosen.cost.fetched_bytes) << m.step;
    }
  }
}

TEST_F(CalibrationTest, AHeldOutTextIsMeasuredInsteadOfTheLastWindow) {
  Write("held.txt", 3);
  options_.held_out = {dir_ / "held.txt"};
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->held_out.windows, 2);
  ASSERT_EQ(result->policy.calibration->held_out_texts.size(), 1u);
  EXPECT_EQ(result->policy.calibration->held_out_texts[0].name, "held.txt");
}

TEST_F(CalibrationTest, AnotherTextOrModelInTheSameFolderIsRefused) {
  ASSERT_TRUE(Run().ok());
  Write("text.txt", 5);
  const auto text = Plan();
  EXPECT_EQ(text.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("holds results of another run"));
  Write("text.txt", 1);
  WriteTinyModel(dir_ / "tiny.gguf", {.seed = 2});
  EXPECT_EQ(Plan().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CalibrationTest, MistakesShowBeforeTheWeightsAreLoaded) {
  const auto message = [&] { return std::string(Plan().status().message()); };
  options_.texts = {dir_ / "none.txt"};
  EXPECT_THAT(message(), HasSubstr("none.txt"));
  std::ofstream(dir_ / "short.txt") << "too short";
  options_.texts = {dir_ / "short.txt"};
  EXPECT_THAT(message(), HasSubstr("short.txt: text has 9 tokens, 3 windows of"))
      << "two, and one held out";
  options_.text.context_tokens = 5000;
  EXPECT_THAT(message(), HasSubstr("the model's context is 4096"));
}

TEST_F(CalibrationTest, ADamagedRecordIsAnErrorAndNotBelieved) {
  ASSERT_TRUE(Run().ok());
  std::ofstream(dir_ / "out/measured/scores.jsonl") << R"({"id":"x"})"
                                                    << "\n";
  EXPECT_TRUE(Run().ok()) << "another window's record does not matter";
  std::string log = Log();
  const size_t tokens = log.find("\"tokens\":4");
  ASSERT_NE(tokens, log.npos);
  log.replace(tokens, 10, "\"tokens\":0");
  std::ofstream(dir_ / "out/measured/measured.jsonl") << log;
  EXPECT_EQ(Run().status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace tailor
