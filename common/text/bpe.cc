#include "common/text/bpe.h"

#include <algorithm>
#include <functional>

#include "common/status.h"

namespace tailor {
namespace {

constexpr TokenId kGone = -1;

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

bool BpeMerges::Add(TokenId left, TokenId right, TokenId merged) {
  const auto rank = static_cast<uint32_t>(merges_.size());
  return merges_.try_emplace(PairKey(left, right), Merge{rank, merged}).second;
}

const BpeMerges::Merge* BpeMerges::Find(TokenId left, TokenId right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BpeMerges::Push(int32_t left, Scratch& scratch) const {
  const auto& symbols = scratch.symbols;
  if (left < 0 || symbols[left].next < 0) return;
  const Merge* merge = Find(symbols[left].id, symbols[symbols[left].next].id);
  if (merge == nullptr) return;
  scratch.queue.push_back(uint64_t{merge->rank} << 32 | static_cast<uint32_t>(left));
}

// False for an entry that an earlier merge has overtaken.
bool BpeMerges::Join(uint32_t rank, int32_t left, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  const int32_t right = symbols[left].next;
  if (symbols[left].id == kGone || right < 0) return false;
  const Merge* merge = Find(symbols[left].id, symbols[right].id);
  if (merge == nullptr || merge->rank != rank) return false;
  symbols[left].id = merge->id;
  symbols[left].next = symbols[right].next;
  if (symbols[right].next >= 0) symbols[symbols[right].next].previous = left;
  symbols[right].id = kGone;
  return true;
}

void BpeMerges::Encode(const std::vector<TokenId>& bytes, Scratch& scratch,
                       std::vector<TokenId>& out) const {
  TS_CHECK(bytes.size() < (size_t{1} << 31));
  const auto count = static_cast<int32_t>(bytes.size());
  auto& [symbols, queue] = scratch;
  symbols.resize(bytes.size());
  queue.clear();
  for (int32_t i = 0; i < count; ++i) symbols[i] = {bytes[i], i - 1, i + 1 < count ? i + 1 : -1};
  for (int32_t i = 0; i < count; ++i) Push(i, scratch);
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const uint64_t best = queue.back();
    queue.pop_back();
    const auto left = static_cast<int32_t>(best & 0xffffffffu);
    if (!Join(static_cast<uint32_t>(best >> 32), left, scratch)) continue;
    for (const int32_t changed : {symbols[left].previous, left}) {
      const size_t before = queue.size();
      Push(changed, scratch);
      if (queue.size() > before) std::push_heap(queue.begin(), queue.end(), std::greater<>());
    }
  }
  for (int32_t i = 0; i >= 0 && i < count; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace tailor
