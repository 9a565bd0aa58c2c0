#include "kernels/stem/stem.h"

#include <algorithm>

#include "kernels/stem/scratch.h"

namespace pnf {

std::size_t stem_scratch(const Stem& stem) {
  const std::size_t rows = std::size_t{9} * (stem.width + 2);
  const std::size_t out_width = (stem.width + 1) / 2;
  const std::size_t half_rows = (3 * stem_row_halves(stem) + 1) / 2;
  const std::size_t pairs = half_rows + out_width * kBlock + std::size_t{kBlock} * kBlock * stem.blocks;
  return std::max(rows, pairs);
}

}  // namespace pnf
