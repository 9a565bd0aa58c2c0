// What an operator refuses. STD_TORCH_CHECK would put the path and the line of this source in front of the words.
#pragma once
#include <new>
#include <sstream>
#include <stdexcept>

namespace pnf::ops {

// Throws std::runtime_error, which torch's boxed calls take to their caller.
template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// What body() returns, what it throws of its input or for want of memory told with the operator's name.
template <typename Body>
auto told(const char* name, Body body) {
  try {
    return body();
  } catch (const std::invalid_argument& error) {
    refuse(name, error.what());
  } catch (const std::bad_alloc&) {
    refuse(name, "there is not memory enough for this call");
  }
}

}  // namespace pnf::ops

#define PNF_CHECK(condition, ...)                      \
  do {                                                 \
    if (!(condition)) ::pnf::ops::refuse(__VA_ARGS__); \
  } while (false)
