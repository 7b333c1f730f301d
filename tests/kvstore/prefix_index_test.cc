#include "kvstore/prefix_index.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

namespace tailor {
namespace {

struct Rooted {
  Fingerprint model, policy;
  PoolShape shape = {4, 2, 16, {1, 3}};
  std::string tenant = "tenant";
  std::vector<TokenId> ids = std::vector<TokenId>(kPageTokens, 7);

  Fingerprint Link() const { return PrefixLink(PrefixRoot(model, policy, shape, tenant), ids); }
};

TEST(PrefixChain, EqualPrefixesHaveEqualLinks) { EXPECT_EQ(Rooted().Link(), Rooted().Link()); }

TEST(PrefixChain, AnyDifferenceGivesAnotherLink) {
  const std::vector<std::function<void(Rooted&)>> changes = {
      [](Rooted&) {},
      [](Rooted& r) { r.model.bytes[31] ^= 1; },
      [](Rooted& r) { r.policy.bytes[31] ^= 1; },
      [](Rooted& r) { r.model.bytes[0] = 1; },
      [](Rooted& r) { r.policy.bytes[0] = 1; },  // the same bytes in the other's place
      [](Rooted& r) { r.shape.layers = 5; },
      [](Rooted& r) { r.shape.kv_heads = 1; },
      [](Rooted& r) { r.shape.head_dim = 32; },
      [](Rooted& r) {
        r.shape.sparse_layers = {1, 2};
      },
      [](Rooted& r) { r.shape.sparse_layers = {1}; },
      [](Rooted& r) { r.shape.sparse_layers = {}; },
      [](Rooted& r) { r.tenant = "tenanu"; },
      [](Rooted& r) { r.tenant = ""; },
      [](Rooted& r) { r.tenant = std::string("tenant\0", 7); },
      [](Rooted& r) { r.ids[0] ^= 1; },
      [](Rooted& r) { r.ids[kPageTokens - 1] ^= 1 << 30; },
      [](Rooted& r) { r.ids[5] = -1; },
  };
  std::set<Fingerprint> links;
  for (size_t i = 0; i < changes.size(); ++i) {
    Rooted rooted;
    changes[i](rooted);
    EXPECT_TRUE(links.insert(rooted.Link()).second) << "change " << i << " does not show";
  }
}

TEST(PrefixChain, APageLinksToItsOwnPastOnly) {
  const Fingerprint root = Rooted().Link();
  const std::vector<TokenId> a(kPageTokens, 1), b(kPageTokens, 2);
  EXPECT_NE(PrefixLink(PrefixLink(root, a), b), PrefixLink(PrefixLink(root, b), a));
  EXPECT_NE(PrefixLink(PrefixLink(root, a), b), PrefixLink(root, b));
  EXPECT_NE(PrefixLink(PrefixLink(root, a), a), PrefixLink(root, a));
}

Fingerprint Link(uint8_t n) {
  Fingerprint link;
  link.bytes[0] = n;
  return link;
}

TEST(PrefixIndex, TheFirstPageOfALinkIsKeptUntilItIsForgotten) {
  PrefixIndex index;
  EXPECT_FALSE(index.Find(Link(1)).has_value());
  index.Insert(Link(1), PageId{10});
  index.Insert(Link(1), PageId{11});
  EXPECT_EQ(index.Find(Link(1)), PageId{10});
  index.Forget(PageId{11});
  EXPECT_EQ(index.Find(Link(1)), PageId{10}) << "page 11 never stood for the link";
  index.Forget(PageId{10});
  EXPECT_FALSE(index.Find(Link(1)).has_value());
  index.Insert(Link(1), PageId{11});
  EXPECT_EQ(index.Find(Link(1)), PageId{11});
  EXPECT_EQ(index.size(), 1u);
}

TEST(PrefixIndex, ForgettingAPageLeavesTheOthers) {
  PrefixIndex index;
  for (uint8_t n = 0; n < 10; ++n) index.Insert(Link(n), PageId{n});
  index.Forget(PageId{4});
  index.Forget(PageId{4});
  index.Forget(PageId{99});
  EXPECT_EQ(index.size(), 9u);
  for (uint8_t n = 0; n < 10; ++n) EXPECT_EQ(index.Find(Link(n)).has_value(), n != 4);
}

}  // namespace
}  // namespace tailor
