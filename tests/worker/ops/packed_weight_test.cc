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

// The file's block of one output of a K format.
std::vector<std::byte> KFileBlock(DType dtype, const std::byte* packed, int64_t lane) {
  std::vector<std::byte> out(BlockBytes(dtype));
  const bool is_q4 = dtype == DType::kQ4_K;
  const int64_t scales = is_q4 ? 12 : 16, halves = is_q4 ? 2 : 1;
  const std::byte* codes = packed + (2 * halves + scales) * 16;
  const auto code = [&](int k) {  // 0..255
    const std::byte* step = codes + k / 32 * (is_q4 ? 16 : 24) * 16;
    const int byte = static_cast<int>(step[k % 32 / 2 * 16 + lane]);
    const int low = k % 2 == 0 ? byte & 15 : byte >> 4;
    if (is_q4) return low;
    return low | (static_cast<int>(step[(16 + k % 32 / 4) * 16 + lane]) >> k % 4 * 2 & 3) << 4;
  };
  std::byte* file_halves = out.data() + (is_q4 ? 0 : 208);
  for (int64_t i = 0; i < 2 * halves; ++i) file_halves[i] = packed[i / 2 * 32 + lane * 2 + i % 2];
  std::byte* file_scales = out.data() + (is_q4 ? 4 : 192);
  for (int64_t i = 0; i < scales; ++i) file_scales[i] = packed[(2 * halves + i) * 16 + lane];
  for (int k = 0; k < 256; ++k) {
    const int byte = is_q4 ? 16 + k / 64 * 32 + k % 32 : k / 128 * 64 + k % 64;
    const bool in_high_half = is_q4 ? k % 64 >= 32 : k % 128 >= 64;
    out[byte] |= static_cast<std::byte>((code(k) & 15) << (in_high_half ? 4 : 0));
    if (!is_q4) {
      out[128 + k / 128 * 32 + k % 32] |= static_cast<std::byte>(code(k) >> 4 << k % 128 / 32 * 2);
    }
  }
  return out;
}

// The file's bytes of one output, taken back out of a group by the header's description.
std::vector<std::byte> FileRow(const PackedWeight& packed, DType dtype, int64_t row, int64_t cols) {
  const std::byte* group = packed.group(row / 16).bytes;
  const int64_t lane = row % 16, size = BlockBytes(dtype);
  std::vector<std::byte> out;
  const int headers = dtype == DType::kQ4_1 ? 2 : BlockValues(dtype) == 32 ? 1 : 0;
  for (int64_t i = 0; i < cols / BlockValues(dtype); ++i) {
    const std::byte* block = group + i * 16 * size;
    if (BlockValues(dtype) == 256) {
      const auto bytes = KFileBlock(dtype, block, lane);
      out.insert(out.end(), bytes.begin(), bytes.end());
      continue;
    }
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
      const int64_t cols = 3 * WholeBlocks(dtype, 32);
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
      const int64_t cols = WholeBlocks(dtype, 64);
      const auto want = TensorBytes(dtype, (rows + 15) / 16 * 16, cols);
      ASSERT_TRUE(want.ok());
      EXPECT_EQ(Pack(RandomWeight(dtype, rows, cols, 1))->bytes(), *want) << DTypeName(dtype);
    }
  }
}

TEST(PackedWeightTest, ARowHasTheValuesOfTheFileExactly) {
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = BlockValues(dtype) == 1 ? 41 : 5 * BlockValues(dtype);
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
    const int64_t cols = 2 * WholeBlocks(dtype, 32);
    const FileWeight file = RandomWeight(dtype, 32, cols, 5);
    const HostMatrix want = file.Values();
    const auto packed = Pack(file);
    const WeightGroup groups[] = {packed->group(0), packed->group(1)};
    std::vector<float> panel(cols * 32);
    KernelsFor(GetParam()).unpack(groups, 2, panel.data());
    for (int64_t row = 0; row < 32; ++row) {
      for (int64_t k = 0; k < cols; ++k) {
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
  file = RandomWeight(DType::kQ6_K, 2, 256, 1);
  file.cols = 128;
  EXPECT_THAT(std::string(PackedWeight::Pack(file.view()).status().message()),
              HasSubstr("128 columns, blocks need a multiple of 256"));
}

}  // namespace
}  // namespace tailor
