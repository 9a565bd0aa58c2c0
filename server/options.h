// The command line; every option --some-name is POCKETNET_SOME_NAME in the environment, too.
#pragma once
#include <string>

#include "engine.h"
#include "http_server.h"
#include "loaded_model.h"
#include "log.h"
#include "service.h"

namespace pocketnet::server {

struct Options {
  ModelOptions model;
  std::string operators;  // libpnf_ops.so
  HttpOptions http;
  EngineOptions engine;
  ServiceLimits limits;
  std::string galleries;  // a folder; empty: none
  bool galleries_read_only = false;
  std::string tokens;  // a file; empty: none
  int drain_seconds = 30;
  LogLevel log_level = LogLevel::kInfo;
};

// What the arguments and the environment say, or the exit code where there is nothing more to do: 0 after --help, 2 after
// a mistake, which standard error names in a line.
struct ParsedOptions {
  Options options;
  int exit_code = -1;
};
ParsedOptions parse_options(int argc, char** argv);

}  // namespace pocketnet::server
