// The threads of an operator's call.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "ops/check.h"
#include "plan/processors.h"

namespace pnf::ops {

// Torch's number, and never more than there are processors for them.
inline int threads_of_call() {
  return static_cast<int>(std::clamp<std::int64_t>(torch::stable::get_num_threads(), 1, usable_processors()));
}

// As many as are asked for, or torch's for 0.
inline int threads_of_call(const char* operation, std::int64_t asked) {
  PNF_CHECK(asked >= 0 && asked <= 1024, operation, "threads must lie in 0..1024, got ", asked);
  return asked == 0 ? threads_of_call() : static_cast<int>(std::min<std::int64_t>(asked, usable_processors()));
}

}  // namespace pnf::ops
