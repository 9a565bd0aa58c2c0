#include "hosting/operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>

#include <filesystem>
#include <stdexcept>

namespace pocketnet::hosting {

void load_operators(const std::string& library) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(library, error)) {
    throw std::runtime_error("cannot load the operators: " + library + " is no file");
  }
  // The loader looks for a name without folder among the system's libraries only, so it is given a whole path.
  const std::string path = std::filesystem::absolute(library).string();
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("cannot load the operators: ") + dlerror());
  }
}

std::string installed_operators() {
#ifdef PNF_HOSTING_OPS
  std::error_code error;
  if (std::filesystem::is_regular_file(PNF_HOSTING_OPS, error)) return PNF_HOSTING_OPS;
#endif
  return "";
}

bool operators_are_loaded() {
  return c10::Dispatcher::singleton().findSchema({"pocketnet_fast::run_plan", ""}).has_value();
}

}  // namespace pocketnet::hosting
