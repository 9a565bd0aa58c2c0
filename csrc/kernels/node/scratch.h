// How node_rows divides its scratch. Everything is static: the kernels of each instruction set and the sizing
// function see the same arithmetic without sharing object code.
#pragma once
#include "kernels/node/node.h"

namespace pnf {

// Of a block, in `TermOf::middle`.
static constexpr int kMiddleFloats = 3 * kBlock;

// Enough pixels for the weights of a block to be read from the second-level cache a few times only.
template <typename State>
static inline int band_rows(const NodeOf<State>& node) {
  constexpr int kBandPixels = 56;
  const int rows = kBandPixels / node.width;
  return rows < 1 ? 1 : (rows > node.height ? node.height : rows);
}

template <typename State>
static inline int ring_width(const TermOf<State>& term) {
  return term.width + 2 * (term.kernel / 2);
}

template <typename State>
static inline std::ptrdiff_t ring_floats(const TermOf<State>& term) {
  return static_cast<std::ptrdiff_t>(term.blocks) * term.kernel * ring_width(term) * kBlock;
}

// Two rows of a convolution's result, of which the largest of 2 x 2 pixels are taken.
template <typename State>
static inline std::ptrdiff_t filtered_floats(const TermOf<State>& term) {
  return 2 * static_cast<std::ptrdiff_t>(term.blocks) * term.width * kBlock;
}

// Depthwise weights of half precision for windows that begin with a pair of rows and for those that begin inside one.
template <typename State>
static inline std::ptrdiff_t pair_weights_floats(const TermOf<State>& term) {
  return 2 * static_cast<std::ptrdiff_t>(term.blocks) * (term.kernel / 2 + 1) * term.kernel * kBlock;
}

// The weights of a term's last block where it has no other beside it, which the kernels with tiles copy.
template <typename State>
static inline std::ptrdiff_t last_weights_floats(const NodeOf<State>& node, const TermOf<State>& term) {
  return term.blocks % 2 * static_cast<std::ptrdiff_t>(node.blocks) * kBlock * kBlock;
}

}  // namespace pnf
