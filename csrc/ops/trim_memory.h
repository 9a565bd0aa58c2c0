#pragma once
#include <cstdint>

namespace pnf::ops {

// Frees what calls of this process have left for the next ones, and returns its bytes; calls that are running keep what
// they have. Without it at most 64 MiB wait for each kind of call, or what the last one took.
std::int64_t trim_memory();

}  // namespace pnf::ops
