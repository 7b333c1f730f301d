#include "services/gateway/stop_strings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace tailor {
namespace {

using ::testing::ElementsAre;

// What each push returned, then what the flush did.
std::vector<std::string> Shown(std::vector<std::string> stops,
                               const std::vector<std::string>& pieces) {
  StopStrings strings(std::move(stops));
  std::vector<std::string> shown;
  for (const std::string& piece : pieces) shown.push_back(strings.Push(piece));
  shown.push_back(strings.Flush());
  return shown;
}

TEST(StopStringsTest, WithoutStopStringsEveryPieceIsShownAtOnce) {
  EXPECT_THAT(Shown({}, {"a", "bc", ""}), ElementsAre("a", "bc", "", ""));
}

TEST(StopStringsTest, AMatchAcrossPiecesEndsTheAnswerBeforeIt) {
  EXPECT_THAT(Shown({"STOP"}, {"go on S", "TO", "P and more", "never"}),
              ElementsAre("go on ", "", "", "", ""));
}

TEST(StopStringsTest, TheLongestPossibleBeginningIsHeldBackAndNoMore) {
  // Of the three a's only two can begin the stop.
  EXPECT_THAT(Shown({"aab"}, {"xaaa", "c"}), ElementsAre("xa", "aac", ""));
}

TEST(StopStringsTest, WhatWasHeldBackIsShownOnceWhenItIsNoStop) {
  EXPECT_THAT(Shown({"\n\nUser:"}, {"yes\n", "\nUs", "ed"}),
              ElementsAre("yes", "", "\n\nUsed", ""));
  EXPECT_THAT(Shown({"STOP"}, {"ST"}), ElementsAre("", "ST"));
}

TEST(StopStringsTest, TheFirstCompleteStopWinsWhateverTheListSays) {
  for (const auto& stops : {std::vector<std::string>{"later", "now"}, {"now", "later"}}) {
    EXPECT_THAT(Shown(stops, {"a now b later"}), ElementsAre("a ", ""));
  }
}

TEST(StopStringsTest, OfTwoStopsThatEndTogetherTheLongerCutsMore) {
  EXPECT_THAT(Shown({"END", "THE END"}, {"it is THE END"}), ElementsAre("it is ", ""));
}

// The rule of the header, on the whole text.
std::string Naive(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

std::string RandomText(std::mt19937_64& random, size_t min, size_t max) {
  std::string text;
  for (size_t i = min + random() % (max - min + 1); i > 0; --i) text += "ab"[random() % 2];
  return text;
}

TEST(StopStringsTest, AnyPiecesGiveWhatASearchOfTheWholeTextGives) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  int cut = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 4; i > 0; --i) stops.push_back(RandomText(random, 2, 7));
    const std::string text = RandomText(random, 0, 30);
    StopStrings strings(stops);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t length = std::min<size_t>(1 + random() % 5, text.size() - at);
      shown += strings.Push(std::string_view(text).substr(at, length));
      at += length;
    }
    const bool stopped = strings.stopped();
    if (!stopped) shown += strings.Flush();
    const std::string expected = Naive(stops, text);
    ASSERT_EQ(shown, expected) << "text " << text << " stops " << ::testing::PrintToString(stops);
    ASSERT_EQ(stopped, expected != text || (!stops.empty() && expected.size() < text.size()));
    cut += stopped;
  }
  EXPECT_GT(cut, 1000) << "the rounds hardly ever met a stop string";
}

}  // namespace
}  // namespace tailor
