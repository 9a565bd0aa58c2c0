// What calls of the library answer.
#pragma once
#include <stdexcept>
#include <string>

#include "pocketnet.h"

namespace pnf::library {

// Ends a call with a status and a message of one line.
class Refusal : public std::runtime_error {
 public:
  Refusal(pocketnet_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  pocketnet_status status() const { return status_; }

 private:
  pocketnet_status status_;
};

// The message of this thread's last call that failed.
const char* message();

// Keeps the message of the exception at hand, to be called where it is caught; returns its status. Takes no memory.
pocketnet_status status_of_exception() noexcept;

// Runs a call, whatever it throws.
template <typename Call>
pocketnet_status answer(const Call& call) noexcept {
  try {
    call();
    return POCKETNET_OK;
  } catch (...) {
    return status_of_exception();
  }
}

}  // namespace pnf::library
