#include "kvstore/arena.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "common/log.h"
#include "common/status.h"

namespace tailor {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSmallestArena = int64_t{1} << 20;
constexpr int64_t kLargestArena = int64_t{1} << 47;  // no process maps more; no sum overflows
constexpr int64_t kPoolsAlignment = 4096;

int64_t AlignUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// A number alone in a file; -1 when it is absent or says "max".
int64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

struct Mapped {
  UniqueFd fd;
  std::byte* base = nullptr;
};

// Maps a fresh memfd and faults it in; base is null when the kernel refuses.
Mapped MapMemfd(int64_t bytes, unsigned int flags, int advice) {
  UniqueFd fd(::memfd_create("tailor-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  if (!fd || ::ftruncate(fd.get(), bytes) != 0) return {};
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return {};
  if (advice != 0) ::madvise(base, bytes, advice);
  if (::madvise(base, bytes, MADV_POPULATE_WRITE) != 0) {
    ::munmap(base, bytes);
    return {};
  }
  return {std::move(fd), static_cast<std::byte*>(base)};
}

bool ShmemHugeAllowed() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return text.find("[advise]") != std::string::npos || text.find("[always]") != std::string::npos ||
         text.find("[within_size]") != std::string::npos;
}

}  // namespace

std::string_view ToString(PageBacking backing) {
  switch (backing) {
    case PageBacking::kHugeTlb: return "2 MiB pages (reserved)";
    case PageBacking::kTransparentHuge: return "transparent huge pages";
    case PageBacking::kPlain: return "4 KiB pages";
  }
  return "unknown";
}

int64_t AvailableHostBytes() {
  int64_t available = std::numeric_limits<int64_t>::max();
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    if (line.rfind("MemAvailable:", 0) == 0) available = std::stoll(line.substr(13)) * 1024;
  }
  const int64_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const int64_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0) available = std::min(available, limit - used);
  return available;
}

absl::StatusOr<Arena> Arena::Create(int64_t bytes, uint64_t epoch) {
  if (bytes < kSmallestArena || bytes > kLargestArena) {
    return absl::InvalidArgumentError(absl::StrCat("arena of ", bytes, " bytes, limit ",
                                                   kSmallestArena, "..", kLargestArena));
  }
  bytes = AlignUp(bytes, kHugePage);
  const int64_t available = AvailableHostBytes();
  if (bytes > available) {
    return absl::ResourceExhaustedError(absl::StrCat("arena of ", bytes, " bytes needs ",
                                                     bytes - available,
                                                     " bytes more than the host has free (",
                                                     available, ")"));
  }
  PageBacking backing = PageBacking::kHugeTlb;
  Mapped mapped = MapMemfd(bytes, MFD_HUGETLB, 0);
  if (mapped.base == nullptr) {
    backing = ShmemHugeAllowed() ? PageBacking::kTransparentHuge : PageBacking::kPlain;
    mapped = MapMemfd(bytes, 0, MADV_HUGEPAGE);
  }
  if (mapped.base == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("arena of ", bytes, " bytes: ", std::string(std::strerror(errno))));
  }
  Arena arena(std::move(mapped.fd), mapped.base, bytes, backing);
  if (::fcntl(arena.fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return absl::InternalError(absl::StrCat("arena not sealed: ", std::string(std::strerror(errno))));
  }
  auto* header = new (arena.base()) ArenaHeader{};
  header->magic = kArenaMagic;
  header->version = kArenaVersion;
  header->epoch = epoch;
  header->bytes = static_cast<uint64_t>(bytes);
  header->slot_table_offset = arena.slot_table_offset();
  header->slot_count = kArenaSlots;
  header->pools_offset = static_cast<uint64_t>(arena.pools_offset());
  return arena;
}

Arena::Arena(Arena&& other) noexcept
    : fd_(std::move(other.fd_)),
      base_(std::exchange(other.base_, nullptr)),
      bytes_(other.bytes_),
      backing_(other.backing_) {}

Arena::~Arena() {
  if (base_ != nullptr) ::munmap(base_, bytes_);
}

uint64_t Arena::slot_table_offset() const { return sizeof(ArenaHeader); }

int64_t Arena::pools_offset() const {
  return AlignUp(static_cast<int64_t>(sizeof(ArenaHeader) + kArenaSlots * sizeof(SequenceSlot)),
                 kPoolsAlignment);
}

SequenceSlot* Arena::slot(uint32_t index) const {
  TS_DCHECK(index < kArenaSlots);
  return reinterpret_cast<SequenceSlot*>(base_ + slot_table_offset()) + index;
}

}  // namespace tailor
