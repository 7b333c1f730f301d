#include "common/log.h"

#include <cstdlib>

#include "spdlog/sinks/stdout_color_sinks.h"

namespace tailor {

void SetUpLogging(const std::string& process_name, const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_color_mt(process_name));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %n %l %v");
  const char* override_level = std::getenv("TAILOR_LOG_LEVEL");
  spdlog::set_level(spdlog::level::from_str(override_level != nullptr ? override_level : level));
}

}  // namespace tailor
