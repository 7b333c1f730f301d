#include "common/model_file/dtype.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(DType, RowsHaveTheBytesOfTheirBlocks) {
  EXPECT_EQ(*RowBytes(DType::kF32, 3), 12);
  EXPECT_EQ(*RowBytes(DType::kF16, 3), 6);
  EXPECT_EQ(*RowBytes(DType::kBF16, 3), 6);
  EXPECT_EQ(*RowBytes(DType::kQ8_0, 64), 2 * 34);
  EXPECT_EQ(*RowBytes(DType::kQ4_0, 64), 2 * 18);
  EXPECT_EQ(*RowBytes(DType::kQ4_1, 64), 2 * 20);
  EXPECT_EQ(*RowBytes(DType::kQ4_K, 512), 2 * 144);
  EXPECT_EQ(*RowBytes(DType::kQ6_K, 512), 2 * 210);
  EXPECT_EQ(*TensorBytes(DType::kQ4_1, 5, 32), 100);
}

TEST(DType, AShapeThatIsNoWholeBlocksOrOverflowsIsRefused) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(std::string(RowBytes(DType::kQ4_0, 33).status().message()),
              AllOf(HasSubstr("33"), HasSubstr("Q4_0"), HasSubstr("32")));
  EXPECT_FALSE(RowBytes(DType::kQ6_K, 224).ok());
  for (const int64_t cols : {int64_t{0}, int64_t{-32}, kMax, kMax - 3}) {
    EXPECT_FALSE(RowBytes(DType::kF32, cols).ok()) << cols;
  }
  EXPECT_FALSE(TensorBytes(DType::kF32, kMax / 4, 2).ok());
  EXPECT_FALSE(TensorBytes(DType::kF32, 0, 2).ok());
  EXPECT_FALSE(TensorBytes(DType::kF32, -1, 2).ok());
}

}  // namespace
}  // namespace tailor
