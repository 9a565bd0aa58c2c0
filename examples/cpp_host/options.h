// The command line of the host.
#pragma once
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "images/image.h"

struct Options {
  std::string model;
  std::string ops;
  std::string crops;
  std::string output;
  std::vector<std::string> images;
  pocketnet::images::ImageLimits limits;
  std::optional<double> far;
  bool flip = false;
  int repeat = 20;
  int threads = 1;
  int callers = 0;
  int batch = 32;
};

// What is wrong with a command line, and the help.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Nothing if help was asked for, which is printed. Throws UsageError, or std::runtime_error if the environment states a
// limit that is none.
std::optional<Options> parse(int argc, char** argv);
