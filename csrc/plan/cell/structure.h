// A cell from the numbers that describe it: the one check that every device's training rests on.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "plan/cell.h"

namespace pnf {

using TensorShape = std::vector<std::int64_t>;

// structure: eight numbers an operation, in the order of the operations' sums: the sum that it adds to; its kind, that of
// CellKind or 4 for a residual and 5 for a scaled one; the first state that it reads and how many; kernel size, stride,
// offset and first output channel (pocketnet_fast/ops/cell/structure.py).
// inputs: N, C, H, W of each. parameters: each operation's in turn, for kSeparable slope, depthwise and pointwise, for
// whatever is normalised gamma and beta, for a scaled residual its scale. epsilon: one of each normalised operation.
//
// The result's pointers are null; for a scaled residual it has an operation of the kind kNormalize that is not normalised,
// whose gamma is the scale. Throws std::invalid_argument where anything is not as described here or in plan/cell.h.
Cell read_cell(std::span<const TensorShape> inputs, std::span<const TensorShape> parameters,
               std::span<const std::int64_t> structure, std::span<const double> epsilon);

}  // namespace pnf
