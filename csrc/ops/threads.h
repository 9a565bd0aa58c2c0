// The threads of an operator's call.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "plan/processors.h"

namespace pnf::ops {

// As many as are asked for, or torch's for 0, and never more than there are processors for them.
inline int threads_of_call(std::int64_t asked = 0) {
  const std::int64_t wanted = asked == 0 ? torch::stable::get_num_threads() : asked;
  return static_cast<int>(std::clamp<std::int64_t>(wanted, 1, usable_processors()));
}

}  // namespace pnf::ops
