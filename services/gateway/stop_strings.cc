#include "services/gateway/stop_strings.h"

#include <algorithm>
#include <utility>

namespace tailor {

size_t StopStrings::PossibleStop() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(stop.size(), held_.size()); length > longest; --length) {
      if (held_.compare(held_.size() - length, length, stop, 0, length) == 0) longest = length;
    }
  }
  return longest;
}

std::string StopStrings::Push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  size_t first_end = std::string::npos, begin = 0;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t end = at + stop.size();
    if (end > first_end || (end == first_end && at >= begin)) continue;
    first_end = end;
    begin = at;
  }
  if (first_end != std::string::npos) {
    stopped_ = true;
    std::string shown = held_.substr(0, begin);
    held_.clear();
    return shown;
  }
  const size_t shown_bytes = held_.size() - PossibleStop();
  std::string shown = held_.substr(0, shown_bytes);
  held_.erase(0, shown_bytes);
  return shown;
}

}  // namespace tailor
