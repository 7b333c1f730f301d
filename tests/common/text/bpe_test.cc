#include "common/text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace tailor {
namespace {

struct MergeRule {
  TokenId left, right, merged;
};

// Straight from the definition: look at all neighbours, join the first of the best rank, begin
// again.
std::vector<TokenId> NaiveEncode(const std::vector<MergeRule>& rules, std::vector<TokenId> ids) {
  std::map<std::pair<TokenId, TokenId>, size_t> rank;
  for (size_t r = 0; r < rules.size(); ++r) rank[{rules[r].left, rules[r].right}] = r;
  for (;;) {
    size_t best = rules.size(), where = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = rank.find({ids[i], ids[i + 1]});
      if (found != rank.end() && found->second < best) best = found->second, where = i;
    }
    if (best == rules.size()) return ids;
    ids[where] = rules[best].merged;
    ids.erase(ids.begin() + static_cast<int64_t>(where) + 1);
  }
}

// A few letters, so that merges overlap and chain; some merges share their result.
std::vector<MergeRule> RandomRules(std::mt19937_64& random, TokenId letters, int count) {
  std::vector<MergeRule> rules;
  std::map<std::pair<TokenId, TokenId>, bool> taken;
  TokenId next = letters;
  for (int i = 0; i < count; ++i) {
    const auto pick = [&] { return static_cast<TokenId>(random() % static_cast<uint64_t>(next)); };
    const TokenId left = pick(), right = pick();
    if (taken[{left, right}]) continue;
    taken[{left, right}] = true;
    const bool shares = next > letters && random() % 8 == 0;
    rules.push_back({left, right, shares ? pick() : next++});
  }
  return rules;
}

TEST(BpeMerges, EqualsTheNaiveLoopOnRandomVocabularies) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    const auto letters = static_cast<TokenId>(1 + random() % 5);
    const auto rules = RandomRules(random, letters, 1 + static_cast<int>(random() % 40));
    BpeMerges merges;
    for (const MergeRule& rule : rules) ASSERT_TRUE(merges.Add(rule.left, rule.right, rule.merged));
    BpeMerges::Scratch scratch;  // one for all pieces, as the tokenizer uses it
    for (int piece = 0; piece < 20; ++piece) {
      std::vector<TokenId> bytes(random() % 60);
      for (TokenId& id : bytes)
        id = static_cast<TokenId>(random() % static_cast<uint64_t>(letters));
      std::vector<TokenId> got;
      merges.Encode(bytes, scratch, got);
      ASSERT_EQ(got, NaiveEncode(rules, bytes)) << "seed " << seed << ", piece " << piece;
    }
  }
}

TEST(BpeMerges, TheLeftmostOfEqualPairsIsJoinedFirst) {
  BpeMerges merges;
  ASSERT_TRUE(merges.Add(0, 0, 1));
  BpeMerges::Scratch scratch;
  std::vector<TokenId> ids = {7};
  merges.Encode({0, 0, 0}, scratch, ids);
  EXPECT_EQ(ids, (std::vector<TokenId>{7, 1, 0})) << "appended to what was there";
}

TEST(BpeMerges, APairHasOneRankOnly) {
  BpeMerges merges;
  EXPECT_TRUE(merges.Add(0, 1, 2));
  EXPECT_FALSE(merges.Add(0, 1, 3));
}

TEST(BpeMerges, AnEmptyPieceGivesNothing) {
  BpeMerges::Scratch scratch;
  std::vector<TokenId> ids;
  BpeMerges().Encode({}, scratch, ids);
  EXPECT_TRUE(ids.empty());
}

}  // namespace
}  // namespace tailor
