#include "hosting/one_line.h"

#include <c10/util/Exception.h>

#include <string_view>

namespace pocketnet::hosting {

std::string one_line(const std::exception& error) {
  const auto* torchs = dynamic_cast<const c10::Error*>(&error);
  std::string text = torchs == nullptr ? error.what() : torchs->what_without_backtrace();
  constexpr std::string_view kMark = "RuntimeError: ";
  const std::size_t last = text.rfind(kMark);
  if (last != std::string::npos) text.erase(0, last + kMark.size());
  text.erase(0, text.find_first_not_of(" \n"));
  return text.substr(0, text.find('\n'));
}

}  // namespace pocketnet::hosting
