// Ends an answer before a stop string: holds back text that may be the beginning of one.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tailor {

// An answer ends before the first stop string that is complete; of those complete at the same byte,
// before the longest. So the end does not depend on the pieces in which the text comes.
class StopStrings {
 public:
  // None of them is empty.
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Takes the next piece of the answer and returns what may be shown.
  std::string Push(std::string_view piece);
  // What was held back, at the end of an answer that met no stop string.
  std::string Flush() { return std::exchange(held_, {}); }
  bool stopped() const { return stopped_; }

 private:
  // Length of the longest end of held_ that begins a stop string.
  size_t PossibleStop() const;

  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace tailor
