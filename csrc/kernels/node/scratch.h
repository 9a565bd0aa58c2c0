// How node_rows divides its scratch. Everything is static: the kernels of each instruction set and the sizing
// function see the same arithmetic without sharing object code.
#pragma once
#include "kernels/node/node.h"

namespace pnf {

// Enough pixels for the weights of a block to be read from the second-level cache a few times only.
static inline int band_rows(const Node& node) {
  constexpr int kBandPixels = 56;
  const int rows = kBandPixels / node.width;
  return rows < 1 ? 1 : (rows > node.height ? node.height : rows);
}

static inline int ring_width(const Term& term) { return term.width + 2 * (term.kernel / 2); }

static inline std::ptrdiff_t ring_floats(const Term& term) {
  return static_cast<std::ptrdiff_t>(term.blocks) * term.kernel * ring_width(term) * kBlock;
}

}  // namespace pnf
