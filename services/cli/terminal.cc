#include "services/cli/terminal.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tailor {
namespace {

constexpr int kBarCells = 24;

int Percent(int64_t done, int64_t total) {
  if (total <= 0) return 0;
  return static_cast<int>(100.0 * static_cast<double>(std::clamp<int64_t>(done, 0, total)) /
                          static_cast<double>(total));
}

std::string Scaled(double value, double step, const char* const* units, int last) {
  int unit = 0;
  while (value >= step && unit < last) {
    value /= step;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f%s", value, units[0])
                   : absl::StrFormat("%.1f%s", value, units[unit]);
}

}  // namespace

Terminal DetectTerminal() {
  Terminal terminal;
  terminal.input = isatty(STDIN_FILENO) == 1;
  terminal.output = isatty(STDOUT_FILENO) == 1;
  terminal.error = isatty(STDERR_FILENO) == 1;
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::strcmp(term, "dumb") == 0;
  terminal.color = terminal.error && !dumb && (no_color == nullptr || *no_color == 0);
  winsize size{};
  if (terminal.error && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.columns = size.ws_col;
  }
  terminal.progress = terminal.error && !dumb ? ProgressStyle::kBar : ProgressStyle::kPlain;
  return terminal;
}

std::string ShortCount(int64_t count) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T"};
  return Scaled(static_cast<double>(count), 1000, kUnits, 4);
}

std::string ShortBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {" B", " KiB", " MiB", " GiB", " TiB"};
  return Scaled(static_cast<double>(bytes), 1024, kUnits, 4);
}

std::string ShortDuration(int64_t ms) {
  const int64_t seconds = std::max<int64_t>(ms, 0) / 1000;
  if (seconds >= 86400) return absl::StrCat(seconds / 86400, " d ", seconds % 86400 / 3600, " h");
  if (seconds >= 3600) return absl::StrCat(seconds / 3600, " h ", seconds % 3600 / 60, " min");
  if (seconds >= 60) return absl::StrCat(seconds / 60, " min ", seconds % 60, " s");
  return absl::StrCat(seconds, " s");
}

std::string SafeForTerminal(std::string_view text) {
  std::string safe(text);
  for (size_t i = 0; i < safe.size(); ++i) {
    const auto byte = static_cast<unsigned char>(safe[i]);
    const bool c0 = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
    // U+0080..U+009F, the C1 controls, are 0xc2 0x80..0x9f in UTF-8.
    const bool c1 =
        byte >= 0x80 && byte <= 0x9f && i > 0 && static_cast<unsigned char>(text[i - 1]) == 0xc2;
    if (c1) safe[i - 1] = '?';
    if (c0 || c1) safe[i] = '?';
  }
  return safe;
}

ProgressLine::ProgressLine(ProgressStyle style, bool color, int columns, WriteFn write,
                           ClockFn now_ms)
    : style_(style),
      color_(color),
      columns_(columns),
      write_(std::move(write)),
      now_ms_(std::move(now_ms)) {}

ProgressLine::ProgressLine(const Terminal& terminal)
    : ProgressLine(
          terminal.progress, terminal.color, terminal.columns,
          [](std::string_view text) {
            fwrite(text.data(), 1, text.size(), stderr);
            fflush(stderr);
          },
          [] {
            return std::chrono::duration_cast<std::chrono::milliseconds>(
                       std::chrono::steady_clock::now().time_since_epoch())
                .count();
          }) {}

std::string ProgressLine::Bar(const std::string& label, int64_t done, int64_t total) const {
  std::string line = label;
  if (total > 0) {
    const int percent = Percent(done, total);
    const int cells = percent * kBarCells / 100;
    absl::StrAppendFormat(&line, " [%s%s] %3d%%  %s/%s", std::string(cells, '#'),
                          std::string(kBarCells - cells, '.'), percent, ShortCount(done),
                          ShortCount(total));
  } else {
    absl::StrAppend(&line, " ...");
  }
  const auto room = static_cast<size_t>(std::max(columns_ - 1, 1));
  if (line.size() > room) line.resize(room);
  return color_ ? absl::StrCat("\r\x1b[K\x1b[2m", line, "\x1b[0m") : absl::StrCat("\r\x1b[K", line);
}

void ProgressLine::Show(const std::string& label, int64_t done, int64_t total) {
  if (style_ == ProgressStyle::kNone) return;
  const int64_t now_ms = now_ms_();
  if (!started_) {
    started_ = true;
    // Short work stays quiet in a log: its first plain line comes after one interval.
    last_ms_ = style_ == ProgressStyle::kBar ? now_ms - kBarIntervalMs : now_ms;
  }
  const bool changed = style_ == ProgressStyle::kBar && label != label_;
  const int64_t interval_ms = style_ == ProgressStyle::kBar ? kBarIntervalMs : kPlainIntervalMs;
  if (!changed && now_ms - last_ms_ < interval_ms) return;
  label_ = label;
  last_ms_ = now_ms;
  if (style_ == ProgressStyle::kBar) {
    drawn_ = true;
    write_(Bar(label, done, total));
  } else {
    write_(total > 0 ? absl::StrCat(label, " ", Percent(done, total), "%\n")
                     : absl::StrCat(label, " ...\n"));
  }
}

void ProgressLine::Clear() {
  if (drawn_) write_("\r\x1b[K");
  drawn_ = false;
  label_.clear();
}

}  // namespace tailor
