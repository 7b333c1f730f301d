// The words every layer shares (docs/ARCHITECTURE.md §2).
#pragma once

#include <cstdint>

namespace tailor {

using TokenId = int32_t;

// Tokens of one page: fixed by the byte layout that worker and store share.
inline constexpr int kPageTokens = 128;

// Index of a page in its pool's arena.
enum class PageId : uint32_t {};
inline constexpr PageId kNoPage{0xffffffffu};
constexpr uint32_t Index(PageId page) { return static_cast<uint32_t>(page); }

}  // namespace tailor
