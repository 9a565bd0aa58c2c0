// How the margin kernels divide their scratch. Everything is static: the kernels of each instruction set and the
// sizing functions see the same arithmetic without sharing object code.
#pragma once
#include "kernels/margin_cross_entropy/margin_cross_entropy.h"

namespace pnf {

static inline int margin_padded(int dims) { return (dims + kMarginPanel - 1) / kMarginPanel * kMarginPanel; }

// The block, its transpose and its gradient together stay in half of a second-level cache of 1 MiB.
static inline int margin_block_of(int dims) {
  constexpr int kFloats = 1 << 15, kMost = 256;
  const int classes = kFloats / margin_padded(dims) / kMarginPanel * kMarginPanel;
  return classes < kMarginPanel ? kMarginPanel : (classes > kMost ? kMost : classes);
}

static inline int margin_chunk(int samples) { return samples < kMarginSamples ? samples : kMarginSamples; }

}  // namespace pnf
