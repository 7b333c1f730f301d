#include "kvstore/prefix_index.h"

namespace tailor {

Fingerprint PrefixRoot(const Fingerprint& model, const Fingerprint& policy, const PoolShape& shape,
                       const std::string& tenant) {
  Fingerprinter f;
  f.AddString("tailor prefix");
  f.AddBytes(std::as_bytes(std::span(model.bytes))).AddBytes(std::as_bytes(std::span(policy.bytes)));
  f.AddInt(kLayoutVersion).AddInt(kPageTokens);
  f.AddInt(shape.layers).AddInt(shape.kv_heads).AddInt(shape.head_dim);
  f.AddInt(static_cast<int64_t>(shape.sparse_layers.size()));
  for (const int32_t layer : shape.sparse_layers) f.AddInt(layer);
  return f.AddString(tenant).Finish();
}

Fingerprint PrefixLink(const Fingerprint& previous, std::span<const TokenId> ids) {
  Fingerprinter f;
  f.AddBytes(std::as_bytes(std::span(previous.bytes))).AddBytes(std::as_bytes(ids));
  return f.Finish();
}

void PrefixIndex::Insert(const Fingerprint& link, PageId page) {
  if (by_link_.emplace(link, page).second) by_page_[Index(page)] = link;
}

std::optional<PageId> PrefixIndex::Find(const Fingerprint& link) const {
  const auto it = by_link_.find(link);
  if (it == by_link_.end()) return std::nullopt;
  return it->second;
}

void PrefixIndex::Forget(PageId page) {
  const auto it = by_page_.find(Index(page));
  if (it == by_page_.end()) return;
  by_link_.erase(it->second);
  by_page_.erase(it);
}

}  // namespace tailor
