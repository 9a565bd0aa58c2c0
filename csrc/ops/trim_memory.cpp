#include "ops/trim_memory.h"

#include "plan/lease.h"

namespace pnf::ops {

std::int64_t trim_memory() { return static_cast<std::int64_t>(clear_shelves()); }

}  // namespace pnf::ops
