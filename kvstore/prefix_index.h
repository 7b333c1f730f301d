// Which sealed page continues which prefix: a SHA-256 chain over the ids of whole pages, rooted in
// model, policy, layout and tenant. Holds no references: an entry goes when its page is freed.
#pragma once

#include <optional>
#include <span>
#include <unordered_map>

#include "common/fingerprint.h"
#include "common/types.h"
#include "kvstore/layout.h"

namespace tailor {

// The chain's root for one tenant's sequences in a pool.
Fingerprint PrefixRoot(const Fingerprint& model, const Fingerprint& policy, const PoolShape& shape,
                       const std::string& tenant);
// The link after `previous` for one page of ids. ids: [page_tokens]
Fingerprint PrefixLink(const Fingerprint& previous, std::span<const TokenId> ids);

class PrefixIndex {
 public:
  // Keeps the first page of a link: equal links hold equal rows.
  void Insert(const Fingerprint& link, PageId page);
  std::optional<PageId> Find(const Fingerprint& link) const;
  void Forget(PageId page);
  size_t size() const { return by_link_.size(); }

 private:
  std::unordered_map<Fingerprint, PageId, FingerprintHash> by_link_;
  std::unordered_map<uint32_t, Fingerprint> by_page_;
};

}  // namespace tailor
