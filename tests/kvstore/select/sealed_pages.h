// The sealed pages of one sequence, in plain memory, with keys that a test chooses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvstore/layout.h"
#include "kvstore/page_index.h"
#include "kvstore/select/select.h"

namespace tailor {

struct Heads {
  int32_t kv_heads, group, head_dim;
};

// Three layers, of which layer 0 is dense. Pages lie from the last to the first, with a gap at
// either end: in no run.
struct SealedPages {
  SealedPages(const Heads& heads, int64_t pages)
      : layout(*PoolLayout::Make({3, heads.kv_heads, heads.head_dim, {1, 2}}, pages + 2)),
        bytes(static_cast<size_t>(layout.bytes())),
        view(bytes.data(), layout),
        kmax(layout.shape()) {
    for (int64_t i = 0; i < pages; ++i) {
      page_list.push_back(PageId{static_cast<uint32_t>(pages - i)});
    }
  }

  // value(layer, head, token, channel): of K; V is the token's number. Then seals.
  template <typename Value>
  void Fill(Value value) {
    const int32_t d = view.shape().head_dim;
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (int32_t head = 0; head < view.shape().kv_heads; ++head) {
        for (int32_t t = 0; t < tokens(); ++t) {
          BFloat16* row = Row(layer, head, t);
          for (int32_t c = 0; c < d; ++c) row[c] = ToBFloat16(value(layer, head, t, c));
          for (int32_t c = 0; c < d; ++c) row[d + c] = ToBFloat16(static_cast<float>(t));
        }
      }
    }
    for (const PageId page : page_list) SealPage(view, page);
    kmax.Extend(view, page_list);
  }

  int32_t tokens() const { return static_cast<int32_t>(page_list.size()) * kPageTokens; }
  BFloat16* Row(int32_t layer, int32_t head, int32_t t) const {
    return view.Rows(layer, head, page_list[t / kPageTokens]) +
           (t % kPageTokens) * 2 * view.shape().head_dim;
  }
  float Key(int32_t layer, int32_t head, int32_t t, int32_t c) const {
    return ToFloat(Row(layer, head, t)[c]);
  }

  PoolLayout layout;
  std::vector<std::byte> bytes;
  PoolView view;
  RunningKmax kmax;
  std::vector<PageId> page_list;
};

}  // namespace tailor
