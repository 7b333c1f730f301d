// Pieces of one copy as they are collected: neighbours on both sides become one piece.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "worker/ops/backend.h"

namespace tailor {

class CopyList {
 public:
  void Add(const void* from, void* to, int64_t bytes) {
    const auto* source = static_cast<const std::byte*>(from);
    auto* target = static_cast<std::byte*>(to);
    if (!pieces_.empty()) {
      CopyPiece& last = pieces_.back();
      if (last.from + last.bytes == source && last.to + last.bytes == target) {
        last.bytes += bytes;
        return;
      }
    }
    pieces_.push_back({source, target, bytes});
  }
  std::span<const CopyPiece> pieces() const { return pieces_; }
  std::vector<CopyPiece> Take() { return std::move(pieces_); }

 private:
  std::vector<CopyPiece> pieces_;
};

}  // namespace tailor
