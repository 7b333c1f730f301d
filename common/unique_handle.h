// One owner for every C handle. Traits: Raw, kNull, Close(Raw). Close() may log and goes on: it runs
// on error paths. Creation lives in factories that return StatusOr.
#pragma once

#include <unistd.h>

#include <utility>

namespace tailor {

template <typename Traits>
class UniqueHandle {
 public:
  using Raw = typename Traits::Raw;
  UniqueHandle() = default;
  explicit UniqueHandle(Raw raw) : raw_(raw) {}
  UniqueHandle(UniqueHandle&& other) noexcept : raw_(other.Release()) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    if (this != &other) {
      Reset();
      raw_ = other.Release();
    }
    return *this;
  }
  ~UniqueHandle() { Reset(); }

  Raw get() const { return raw_; }
  explicit operator bool() const { return raw_ != Traits::kNull; }
  Raw Release() { return std::exchange(raw_, Traits::kNull); }
  void Reset() {
    if (raw_ != Traits::kNull) Traits::Close(Release());
  }

 private:
  Raw raw_ = Traits::kNull;
};

struct FdTraits {
  using Raw = int;
  static constexpr Raw kNull = -1;
  static void Close(Raw fd) { ::close(fd); }
};
using UniqueFd = UniqueHandle<FdTraits>;

}  // namespace tailor
