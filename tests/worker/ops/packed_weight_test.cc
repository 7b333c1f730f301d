#include "worker/ops/packed_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/status.h"
#include "tests/worker/ops/weights_in_file.h"

namespace tailor {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

std::shared_ptr<const PackedWeight> Pack(const FileWeight& file) {
  auto packed = PackedWeight::Pack(file.view());
  TS_CHECK(packed.ok());
  return *std::move(packed);
}

// The file's bytes of one output, taken back out of a group by the header's description.
std::vector<std::byte> FileRow(const PackedWeight& packed, DType dtype, int64_t row, int64_t cols) {
  const std::byte* group = packed.group(row / 16).bytes;
  const int64_t lane = row % 16, size = BlockBytes(dtype);
  std::vector<std::byte> out;
  const int headers = dtype == DType::kQ4_1 ? 2 : BlockValues(dtype) == 32 ? 1 : 0;
  for (int64_t i = 0; i < cols / BlockValues(dtype); ++i) {
    const std::byte* block = group + i * 16 * size;
    if (headers == 0) {
      out.insert(out.end(), block + lane * size, block + (lane + 1) * size);
      continue;
    }
    for (int h = 0; h < headers; ++h) {
      const std::byte* half = block + h * 32 + lane * 2;
      out.insert(out.end(), half, half + 2);
    }
    const std::byte* quants = block + headers * 32;
    if (dtype == DType::kQ8_0) {
      for (int k = 0; k < 32; ++k) out.push_back(quants[k * 16 + lane]);
      continue;
    }
    const auto nibble = [&](int k) {
      const std::byte pair = quants[k / 2 * 16 + lane];
      return k % 2 == 0 ? pair & std::byte{15} : pair >> 4;
    };
    for (int k = 0; k < 16; ++k) out.push_back(nibble(k) | nibble(k + 16) << 4);
  }
  return out;
}

TEST(PackedWeightTest, EveryByteOfTheFileIsInThePackedWeight) {
  for (const DType dtype : kAllDTypes) {
    for (const int64_t rows : {1, 15, 16, 17, 40}) {
      const int64_t cols = 96;
      const FileWeight file = RandomWeight(dtype, rows, cols, 7);
      const auto packed = Pack(file);
      std::vector<std::byte> back;
      for (int64_t row = 0; row < rows; ++row) {
        const auto bytes = FileRow(*packed, dtype, row, cols);
        back.insert(back.end(), bytes.begin(), bytes.end());
      }
      EXPECT_EQ(back, file.bytes) << DTypeName(dtype) << ", " << rows << " rows";
    }
  }
}

TEST(PackedWeightTest, APackedWeightIsAsLargeAsItsFileRoundedUpTo16Rows) {
  for (const DType dtype : kAllDTypes) {
    for (const int64_t rows : {1, 16, 17}) {
      const auto want = TensorBytes(dtype, (rows + 15) / 16 * 16, 64);
      ASSERT_TRUE(want.ok());
      EXPECT_EQ(Pack(RandomWeight(dtype, rows, 64, 1))->bytes(), *want) << DTypeName(dtype);
    }
  }
}

TEST(PackedWeightTest, ARowHasTheValuesOfTheFileExactly) {
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = BlockValues(dtype) == 1 ? 41 : 160;
    const FileWeight file = RandomWeight(dtype, 35, cols, 3);
    const HostMatrix want = file.Values();
    const auto packed = Pack(file);
    for (int64_t row = 0; row < 35; ++row) {
      std::vector<float> got(cols);
      packed->Row(row, got.data());
      ASSERT_THAT(got, ElementsAreArray(want.row(row))) << DTypeName(dtype) << " row " << row;
    }
  }
}

class UnpackTest : public OpTest {};

TEST_P(UnpackTest, EveryLevelDequantizesToTheValuesOfTheFileExactly) {
  for (const DType dtype : kAllDTypes) {
    const FileWeight file = RandomWeight(dtype, 32, 64, 5);
    const HostMatrix want = file.Values();
    const auto packed = Pack(file);
    const WeightGroup groups[] = {packed->group(0), packed->group(1)};
    std::vector<float> panel(64 * 32);
    KernelsFor(GetParam()).unpack(groups, 2, panel.data());
    for (int64_t row = 0; row < 32; ++row) {
      for (int64_t k = 0; k < 64; ++k) {
        ASSERT_EQ(panel[k * 32 + row], want.row(row)[k]) << DTypeName(dtype) << " row " << row;
      }
    }
  }
}

INSTANTIATE_AT_EVERY_SIMD_LEVEL(UnpackTest);

TEST(PackedWeightTest, AWeightWhoseBytesDoNotFitItsShapeIsRefused) {
  FileWeight file = RandomWeight(DType::kQ4_1, 2, 64, 1);
  file.bytes.pop_back();
  EXPECT_THAT(std::string(PackedWeight::Pack(file.view()).status().message()),
              HasSubstr("79 bytes, its shape needs 80"));
  file = RandomWeight(DType::kQ4_1, 2, 64, 1);
  file.cols = 40;
  EXPECT_THAT(std::string(PackedWeight::Pack(file.view()).status().message()),
              HasSubstr("40 columns, blocks need a multiple of 32"));
}

}  // namespace
}  // namespace tailor
