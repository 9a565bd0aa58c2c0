// JSON lines on standard error: one object an event. Nothing that a client sent is in them but its request id.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace pocketnet::server {

enum class LogLevel { kInfo, kWarn, kError };

void set_log_level(LogLevel least);

// Adds `time` (UTC, milliseconds), `level` and `event` to the fields, and writes the line in one call.
void log(LogLevel level, const std::string& event, const nlohmann::json& fields);

}  // namespace pocketnet::server
