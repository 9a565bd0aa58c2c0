// Sizes in the stem's scratch. Everything is static: the kernels of each instruction set and the sizing function see the
// same arithmetic without sharing object code.
#pragma once
#include "kernels/stem/stem.h"

namespace pnf {

// A row of half precision with a pixel on either side, and what vectors write beyond it.
template <typename State>
static inline std::ptrdiff_t stem_row_halves(const StemOf<State>& stem) {
  constexpr int kBeyond = 64;
  return 3 * (static_cast<std::ptrdiff_t>(stem.width) + 2) + kBeyond;
}

}  // namespace pnf
