// The page store against ModelPageStore: after every call the books add up and are the model's, and
// pages of live sequences are read and compared.
#include <gtest/gtest.h>

#include "tests/kvstore/store_walk.h"

namespace tailor {
namespace {

class PageStoreAgainstModel : public ::testing::TestWithParam<uint64_t> {};

TEST_P(PageStoreAgainstModel, RandomCallsGiveTheModelsAnswersBooksAndBytes) {
  Walk walk(GetParam());
  for (int step = 0; step < 8000; ++step) {
    SCOPED_TRACE("seed " + std::to_string(GetParam()) + " step " + std::to_string(step));
    walk.Step();
    walk.CheckBooks();
    walk.CheckAPage();
    if (HasFailure()) return;
  }
  using Code = absl::StatusCode;
  // A walk that never gets anywhere proves nothing.
  for (const char* call : {"Open", "Fork", "Reserve", "Seal", "Verify", "Select", "Close"}) {
    EXPECT_GT(walk.calls_of(call), 20) << call;
    EXPECT_GT(walk.refusals_of(call, Code::kFailedPrecondition), 0) << call;
  }
  EXPECT_GT(walk.refusals_of("Open", Code::kAlreadyExists), 0);
  EXPECT_GT(walk.refusals_of("Open", Code::kNotFound), 0);
  EXPECT_GT(walk.refusals_of("Fork", Code::kPermissionDenied), 0);
  EXPECT_GT(walk.refusals_of("Reserve", Code::kResourceExhausted), 0);
  EXPECT_GT(walk.refusals_of("Verify", Code::kDataLoss), 20);
  EXPECT_GT(walk.Stats().evicted_sequences, 20);
  EXPECT_GT(walk.shared_prefixes, 20);
  EXPECT_GT(walk.cut_back, 20);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PageStoreAgainstModel, ::testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace tailor
