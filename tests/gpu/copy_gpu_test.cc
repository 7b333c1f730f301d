// Copies of many pieces between device memory and mapped memory of the host: every byte of every
// piece, and none beside, however long the pieces are and wherever they lie.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/gpu_test.h"

namespace tailor {
namespace {

constexpr int64_t kTile = 16 << 10;   // of the kernel
constexpr int64_t kEngine = 1 << 20;  // longer pieces take another way

enum class Way { kToDevice, kToHost, kOnDevice };

class CopyGpuTest : public GpuTest {
 protected:
  void Fill(uint64_t seed, std::span<std::byte> bytes) {
    std::mt19937_64 random(seed);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  }
  // Pieces of these sizes, in any order on either side and with gaps between them, one after the
  // other in a copy of their own or all in one. What lies around them must stay.
  void ExpectCopied(std::vector<int64_t> sizes, Way way, bool aside, uint64_t seed) {
    SCOPED_TRACE(absl::StrCat("way ", static_cast<int>(way), aside ? ", aside" : ""));
    std::mt19937_64 random(seed);
    int64_t room = 4096;
    for (const int64_t size : sizes) room += size + 64;
    const auto places = [&] {
      std::vector<size_t> order(sizes.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::shuffle(order.begin(), order.end(), random);
      std::vector<int64_t> at(sizes.size());
      int64_t next = 16 * static_cast<int64_t>(random() % 4);
      for (const size_t i : order) {
        at[i] = next;
        next += sizes[i] + 16 * static_cast<int64_t>(random() % 4);
      }
      return at;
    };
    const std::vector<int64_t> from = places(), to = places();
    const std::span<std::byte> host = mapped_.first(room);
    const DeviceBuffer first = *ops_->Allocate(room), second = *ops_->Allocate(room);
    std::vector<std::byte> source(room), want(room), got(room);
    Fill(seed + 1, source);
    Fill(seed + 2, want);
    const bool reads_host = way == Way::kToDevice, writes_host = way == Way::kToHost;
    const auto put = [&](bool on_host, const DeviceBuffer& device, std::span<std::byte> bytes) {
      if (on_host) {
        std::copy(bytes.begin(), bytes.end(), host.begin());
        return host.data();
      }
      ops_->Upload(bytes, device.data());
      return device.data();
    };
    std::byte* const source_at = put(reads_host, first, source);
    std::byte* const target_at = put(writes_host, second, want);
    std::vector<CopyPiece> pieces;
    for (size_t i = 0; i < sizes.size(); ++i) {
      pieces.push_back({source_at + from[i], target_at + to[i], sizes[i]});
      std::copy_n(source.begin() + from[i], sizes[i], want.begin() + to[i]);
    }
    if (aside) {
      ops_->CopyAside(pieces);
      if (!writes_host) ops_->AwaitAside();  // else Synchronize must do
    } else {
      ops_->Copy(pieces);
    }
    if (writes_host) {
      ops_->Synchronize();
      std::copy_n(host.begin(), room, got.begin());
    } else {
      ops_->Download(target_at, got);
    }
    ASSERT_TRUE(got == want) << "first difference at byte "
                             << std::mismatch(got.begin(), got.end(), want.begin()).first -
                                    got.begin();
  }
  void SetUp() override {
    GpuTest::SetUp();
    if (ops_ == nullptr) return;
    mapped_ = Pages(int64_t{16} << 20);
    ASSERT_TRUE(ops_->MapHostMemory(mapped_).ok());
  }

  std::span<std::byte> mapped_;
};

TEST_F(CopyGpuTest, PiecesOfEverySizeArriveWholeAndAlone) {
  const std::vector<int64_t> sizes = {
      16,           32,      496,          kTile - 16, kTile, kTile + 16, 0, 3 * kTile + 48,
      kEngine - 16, kEngine, kEngine + 16, 16};
  uint64_t seed = 1;
  for (const Way way : {Way::kToDevice, Way::kToHost, Way::kOnDevice}) {
    for (const bool aside : {false, true}) ExpectCopied(sizes, way, aside, ++seed);
  }
}

TEST_F(CopyGpuTest, OnePieceAndNoneAreCopiesToo) {
  ExpectCopied({}, Way::kToDevice, false, 10);
  ExpectCopied({}, Way::kToDevice, true, 11);
  for (const int64_t size : {int64_t{0}, int64_t{16}, kTile, kEngine}) {
    ExpectCopied({size}, Way::kToDevice, false, 12);
    ExpectCopied({size}, Way::kToHost, true, 13);
  }
}

// As many as a layer of 128k tokens has where no two of its pages are neighbours, and more than one
// launch takes.
TEST_F(CopyGpuTest, MorePiecesThanALaunchTakesAllArrive) {
  const std::vector<int64_t> sizes(TestsRunOn("emulator") ? 33000 : 70000, 16);
  ExpectCopied(sizes, Way::kToDevice, false, 20);
  ExpectCopied(sizes, Way::kToHost, true, 21);
}

// The ops' argument ring comes round meanwhile: a copy aside may be as late as it likes.
TEST_F(CopyGpuTest, ACopyAsideKeepsItsListHoweverMuchTheOpsPut) {
  constexpr int64_t kPieces = 8192, kRounds = 40;  // 32 bytes a piece on the device: 10 MiB
  const DeviceBuffer target = *ops_->Allocate(3 * kPieces * 16), other = *ops_->Allocate(1 << 20);
  Fill(30, mapped_.first(3 * kPieces * 16));
  std::vector<CopyPiece> aside, ops;
  for (int64_t i = 0; i < kPieces; ++i) {
    aside.push_back({mapped_.data() + 48 * i, target.data() + 48 * i, 16});
    ops.push_back({mapped_.data() + 32 * i, other.data() + 32 * i, 16});
  }
  ops_->CopyAside(aside);
  for (int64_t round = 0; round < kRounds; ++round) ops_->Copy(ops);
  ops_->AwaitAside();
  std::vector<std::byte> got(3 * kPieces * 16), want(3 * kPieces * 16);
  for (int64_t i = 0; i < kPieces; ++i) std::copy_n(mapped_.data() + 48 * i, 16, &want[48 * i]);
  ops_->Download(target.data(), got);
  EXPECT_TRUE(got == want);
}

// What an op wrote before is what goes out, and what comes in is what an op after the wait reads.
TEST_F(CopyGpuTest, CopiesAsideFollowTheOpsBeforeAndTheOpsAfterTheWaitFollowThem) {
  constexpr int64_t kCols = 64, kRows = 32;
  const DeviceMatrix q(*ops_, RandomMatrix(kRows, kCols, 1)),
      k(*ops_, RandomMatrix(kRows, kCols, 2));
  const DeviceBuffer rows = *ops_->Allocate(kRows * 2 * kCols * sizeof(BFloat16));
  std::vector<BFloat16*> places;
  for (int64_t i = 0; i < kRows; ++i) places.push_back(rows.As<BFloat16>() + i * 2 * kCols);
  ops_->WriteRows(q.view(), k.view(), places, kCols);
  const CopyPiece out = {rows.data(), mapped_.data(), rows.bytes()};
  ops_->CopyAside(std::span(&out, 1));
  const CopyPiece back = {mapped_.data(), mapped_.data() + rows.bytes(), rows.bytes()};
  ops_->CopyAside(std::span(&back, 1));  // copies aside follow one another
  ops_->AwaitAside();
  ops_->WriteRows(k.view(), q.view(), places, kCols);
  ops_->Synchronize();
  std::vector<BFloat16> got(kRows * 2 * kCols);
  std::memcpy(got.data(), mapped_.data() + rows.bytes(), rows.bytes());
  const HostMatrix keys = q.Download(), values = k.Download();
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t c = 0; c < kCols; ++c) {
      ASSERT_EQ(got[i * 2 * kCols + c].bits, ToBFloat16(keys.row(i)[c]).bits);
      ASSERT_EQ(got[(2 * i + 1) * kCols + c].bits, ToBFloat16(values.row(i)[c]).bits);
    }
  }
}

}  // namespace
}  // namespace tailor
