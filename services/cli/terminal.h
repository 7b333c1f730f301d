// What the user's terminal can show, and a progress line on it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace tailor {

enum class ProgressStyle {
  kBar,    // one line, redrawn: "prefill [#####.....]  52%  3.1k/6.0k"
  kPlain,  // whole lines "prefill 52%", at most one each kPlainIntervalMs: for logs and pipes
  kNone,
};

struct Terminal {
  bool input = false, output = false, error = false;  // stdin, stdout, stderr are terminals
  bool color = false;  // of stderr: a terminal, TERM is not "dumb", and NO_COLOR is unset or empty
  int columns = 80;    // of stderr
  ProgressStyle progress = ProgressStyle::kPlain;
};
Terminal DetectTerminal();

// 1234 -> "1.2k"; 3500000 -> "3.5M".
std::string ShortCount(int64_t count);
// 1536 -> "1.5 KiB".
std::string ShortBytes(int64_t bytes);
// "2 d 3 h", "3 h 4 min", "4 min 5 s", "5 s".
std::string ShortDuration(int64_t ms);
// What a terminal must not be given raw: control characters other than newline and tab become '?',
// so that no text from elsewhere can move the cursor or set the title.
std::string SafeForTerminal(std::string_view text);

class ProgressLine {
 public:
  static constexpr int64_t kBarIntervalMs = 80;
  static constexpr int64_t kPlainIntervalMs = 5000;

  using WriteFn = std::function<void(std::string_view)>;
  using ClockFn = std::function<int64_t()>;  // milliseconds, monotonic

  ProgressLine(ProgressStyle style, bool color, int columns, WriteFn write, ClockFn now_ms);
  // On stderr, with the steady clock.
  explicit ProgressLine(const Terminal& terminal);
  ~ProgressLine() { Clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // total <= 0: not known yet.
  void Show(const std::string& label, int64_t done, int64_t total);
  // Takes the bar away, so that other text can be written.
  void Clear();

 private:
  std::string Bar(const std::string& label, int64_t done, int64_t total) const;

  const ProgressStyle style_;
  const bool color_;
  const int columns_;
  const WriteFn write_;
  const ClockFn now_ms_;
  std::string label_;    // of the last line written
  int64_t last_ms_ = 0;  // when it was
  bool drawn_ = false;   // a bar is on the screen
  bool started_ = false;
};

}  // namespace tailor
