// A strict look at markup: enough to catch a tag left open, a stray < or an unescaped attribute.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tailor {

// Empty when every tag of `text` is closed in order, attributes are quoted and & begins an entity;
// else what is wrong and where. Void elements and the doctype are HTML's; <style> holds raw text.
inline std::string MarkupError(std::string_view text) {
  std::vector<std::string> open;
  const auto at = [](size_t i) { return " at byte " + std::to_string(i); };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '>') return "stray >" + at(i);
    if (text[i] == '&' && text.substr(i, 8).find(';') == text.npos) return "bare &" + at(i);
    if (text[i] != '<') continue;
    size_t end = i + 1;
    for (bool quoted = false; end < text.size() && (quoted || text[end] != '>'); ++end) {
      if (text[end] == '"') quoted = !quoted;
      if (text[end] == '<') return "< in a tag" + at(end);
    }
    if (end >= text.size()) return "tag without end" + at(i);
    const std::string tag(text.substr(i + 1, end - i - 1));
    const size_t name_at = tag[0] == '/' ? 1 : 0;
    const std::string name = tag.substr(name_at, tag.find_first_of(" /\n", name_at) - name_at);
    if (name_at == 1) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes nothing" + at(i);
      open.pop_back();
    } else if (tag[0] != '!' && tag.back() != '/' && name != "meta") {
      open.push_back(name);
      if (name == "style") end = text.find("</style>", end) - 1;
    }
    i = end;
  }
  return open.empty() ? "" : "<" + open.back() + "> is never closed";
}

}  // namespace tailor
