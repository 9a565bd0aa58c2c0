// Reading a request's body, within limits.
#pragma once
#include <httplib.h>

#include "exchange.h"
#include "memory_budget.h"

namespace pocketnet::server {

struct BodyLimits {
  std::size_t bytes = 64 << 20;
  std::size_t parts = 300;
};

// What can be refused before a byte of the body is read: no stated length, too many bytes, an encoding. Throws Problem.
void check_body_headers(const httplib::Request& request, const BodyLimits& limits);

// Reads it into the exchange. Throws Problem; what is left of the body then makes the connection unusable.
void read_body(Exchange& exchange, const httplib::ContentReader& reader, MemoryBudget& budget,
               const BodyLimits& limits);

}  // namespace pocketnet::server
