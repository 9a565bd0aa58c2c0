#include "library/status.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>

namespace pnf::library {
namespace {

constexpr std::size_t kMostBytes = 512;
thread_local char last_message[kMostBytes];

pocketnet_status keep(pocketnet_status status, const char* message) {
  const std::size_t length = std::min(std::strlen(message), kMostBytes - 1);
  std::memcpy(last_message, message, length);
  last_message[length] = '\0';
  return status;
}

}  // namespace

const char* message() { return last_message; }

pocketnet_status status_of_exception() noexcept {
  try {
    throw;
  } catch (const Refusal& refusal) {
    return keep(refusal.status(), refusal.what());
  } catch (const std::bad_alloc&) {
    return keep(POCKETNET_OUT_OF_MEMORY, "there is not enough memory");
  } catch (const std::exception& error) {
    return keep(POCKETNET_INTERNAL, error.what());
  } catch (...) {
    return keep(POCKETNET_INTERNAL, "an exception of an unknown kind");
  }
}

}  // namespace pnf::library
