// Byte pair encoding: joins the neighbours whose merge has the lowest rank, leftmost first, until
// none is left. Source: Sennrich et al., arXiv:1508.07909; order of ties as in Hugging Face's
// tokenizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/types.h"

namespace tailor {

// Immutable once filled; thread-safe then.
class BpeMerges {
 public:
  // Working memory of one thread, reused from piece to piece.
  struct Scratch {
    struct Symbol {
      TokenId id;              // kGone once merged into its left neighbour
      int32_t previous, next;  // -1: none
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;  // min-heap of rank << 32 | position of the left symbol
  };

  // A later merge has a higher rank. False when the pair already has one.
  bool Add(TokenId left, TokenId right, TokenId merged);

  // Merges the single-byte tokens of one piece (fewer than 2^31) and appends the result.
  // O(n log n) for n bytes, whatever the text: each merge pushes at most two pairs.
  void Encode(const std::vector<TokenId>& bytes, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  struct Merge {
    uint32_t rank;
    TokenId id;
  };
  const Merge* Find(TokenId left, TokenId right) const;
  void Push(int32_t left, Scratch& scratch) const;
  bool Join(uint32_t rank, int32_t left, Scratch& scratch) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;  // by left << 32 | right
};

}  // namespace tailor
