// Which pages of a pool are free, and how many sequences hold each. Not thread-safe.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "common/types.h"

namespace tailor {

class PagePool {
 public:
  explicit PagePool(int64_t pages);

  // `count` pages with one reference each; in one run when there is one (the lowest), else the lowest
  // pages. Empty when fewer are free.
  std::vector<PageId> Allocate(int64_t count);
  void AddReference(PageId page);
  // True when the last reference went: the page is free again.
  bool DropReference(PageId page);

  int64_t pages() const { return static_cast<int64_t>(references_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  uint32_t references(PageId page) const { return references_[Index(page)]; }
  std::span<const uint32_t> references() const { return references_; }  // [pages]

 private:
  std::set<uint32_t> free_;
  std::vector<uint32_t> references_;  // [pages]
};

}  // namespace tailor
