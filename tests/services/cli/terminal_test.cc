#include "services/cli/terminal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tailor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ProgressLineTest : public ::testing::Test {
 protected:
  ProgressLine Make(ProgressStyle style, bool color = false, int columns = 80) {
    return ProgressLine(
        style, color, columns, [this](std::string_view text) { out_ += text; },
        [this] { return now_ms_; });
  }
  std::string out_;
  int64_t now_ms_ = 1000;
};

TEST_F(ProgressLineTest, ABarShowsShareAndCounts) {
  ProgressLine line = Make(ProgressStyle::kBar);
  line.Show("prefill", 3000, 6000);
  EXPECT_EQ(out_, "\r\x1b[Kprefill [############............]  50%  3.0k/6.0k");
}

TEST_F(ProgressLineTest, ABarIsRedrawnNoFasterThanItsInterval) {
  ProgressLine line = Make(ProgressStyle::kBar);
  line.Show("prefill", 1, 100);
  const size_t once = out_.size();
  now_ms_ += ProgressLine::kBarIntervalMs - 1;
  line.Show("prefill", 2, 100);
  EXPECT_EQ(out_.size(), once);
  now_ms_ += 1;
  line.Show("prefill", 3, 100);
  EXPECT_GT(out_.size(), once);
}

TEST_F(ProgressLineTest, ClearLeavesAnEmptyLineAndIsQuietTheSecondTime) {
  ProgressLine line = Make(ProgressStyle::kBar);
  line.Show("load", 1, 2);
  out_.clear();
  line.Clear();
  EXPECT_EQ(out_, "\r\x1b[K");
  line.Clear();
  EXPECT_EQ(out_, "\r\x1b[K");
}

TEST_F(ProgressLineTest, ABarFitsTheTerminal) {
  ProgressLine line = Make(ProgressStyle::kBar, false, 20);
  line.Show("a label that is long", 1, 2);
  EXPECT_LE(out_.size(), std::string("\r\x1b[K").size() + 19);
}

TEST_F(ProgressLineTest, ColourIsUsedOnlyWhenAllowed) {
  Make(ProgressStyle::kBar, true).Show("load", 1, 2);
  EXPECT_THAT(out_, HasSubstr("\x1b[2m"));
  out_.clear();
  Make(ProgressStyle::kBar, false).Show("load", 1, 2);
  EXPECT_THAT(out_, Not(HasSubstr("\x1b[2m")));
}

TEST_F(ProgressLineTest, PlainLinesAreRareAndShortWorkIsSilent) {
  ProgressLine line = Make(ProgressStyle::kPlain);
  line.Show("prefill", 1, 100);
  now_ms_ += ProgressLine::kPlainIntervalMs - 1;
  line.Show("prefill", 49, 100);
  EXPECT_EQ(out_, "");
  now_ms_ += 1;
  line.Show("prefill", 50, 100);
  line.Show("prefill", 51, 100);
  EXPECT_EQ(out_, "prefill 50%\n");
}

TEST_F(ProgressLineTest, NoneWritesNothing) {
  {
    ProgressLine line = Make(ProgressStyle::kNone);
    now_ms_ += 100000;
    line.Show("prefill", 1, 2);
  }
  EXPECT_EQ(out_, "");
}

TEST(TerminalTextTest, CountsBytesAndDurationsAreShort) {
  EXPECT_EQ(ShortCount(999), "999");
  EXPECT_EQ(ShortCount(1234), "1.2k");
  EXPECT_EQ(ShortBytes(1536), "1.5 KiB");
  EXPECT_EQ(ShortBytes(int64_t{3} << 30), "3.0 GiB");
  EXPECT_EQ(ShortDuration(5999), "5 s");
  EXPECT_EQ(ShortDuration(3600000 + 240000), "1 h 4 min");
}

TEST(TerminalTextTest, ControlCharactersNeverReachTheTerminal) {
  EXPECT_EQ(SafeForTerminal("a\x1b]0;title\x07 b\n\tc\r"), "a?]0;title? b\n\tc?");
  EXPECT_EQ(SafeForTerminal("\xc2\x9b"
                            "31m"),
            "??31m");
  EXPECT_EQ(SafeForTerminal("Größe ✓ \xc2\xa0"), "Größe ✓ \xc2\xa0");
}

}  // namespace
}  // namespace tailor
