// Which addresses stay on this machine: there, plain text without keys is safe.
#pragma once

#include <string_view>

namespace tailor {

// True for unix:PATH, localhost:PORT, 127.x.y.z:PORT and [::1]:PORT. A name is never resolved: what
// begins like a loopback address ("127.example.org:80") is none.
bool IsLocalAddress(std::string_view address);

}  // namespace tailor
