#include "kvstore/page_pool.h"

#include "common/status.h"

namespace tailor {

PagePool::PagePool(int64_t pages) : references_(pages, 0) {
  for (int64_t i = 0; i < pages; ++i) free_.insert(free_.end(), static_cast<uint32_t>(i));
}

std::vector<PageId> PagePool::Allocate(int64_t count) {
  if (count > free()) return {};
  auto start = free_.begin();
  int64_t run = 0;
  uint32_t previous = 0;
  for (auto it = free_.begin(); it != free_.end() && run < count; ++it) {
    if (run == 0 || *it != previous + 1) {
      start = it;
      run = 0;
    }
    previous = *it;
    ++run;
  }
  if (run < count) start = free_.begin();
  std::vector<PageId> pages;
  for (int64_t i = 0; i < count; ++i) {
    pages.push_back(PageId{*start});
    references_[*start] = 1;
    start = free_.erase(start);
  }
  return pages;
}

void PagePool::AddReference(PageId page) {
  TS_CHECK(references_[Index(page)] > 0);
  ++references_[Index(page)];
}

bool PagePool::DropReference(PageId page) {
  uint32_t& references = references_[Index(page)];
  TS_CHECK(references > 0);
  if (--references > 0) return false;
  free_.insert(Index(page));
  return true;
}

}  // namespace tailor
