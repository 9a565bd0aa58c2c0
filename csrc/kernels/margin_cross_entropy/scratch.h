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

// Offsets in floats; [panel] runs over a block's panels of a set's tile of classes. A word is what two products take at
// once: a float, or a pair of bfloat16.
struct MarginScratch {
  std::size_t columns;      // [panel][padded dims][tile]: normalised, zero beside the kernel
  std::size_t gradient;     // as columns
  std::size_t inverse;      // [panel][tile]: 1 / length of the column, or 0
  std::size_t transposed;   // [padded dims / tile][words of the panels' classes][tile]
  std::size_t logits;       // [panel][samples of the chunk][tile], or both forms of the gradient's pairs, as below
  std::size_t by_classes;   // pairs: [panel][samples of the chunk][words of the tile]
  std::size_t lanes;        // [samples of the chunk][lanes]: maxima, then sums
  std::size_t words;        // pairs: [panel][words of the padded dims][tile]: the columns
  std::size_t cosines;      // pairs: [samples of the chunk][tile]
  std::size_t row_dims;     // pairs: [samples][margin_row_words]: a row's words
  std::size_t row_samples;  // pairs: [words of the samples][padded dims]
  std::size_t floats;       // of all
};

static constexpr int kMarginLanes = 16;  // of the widest set

// Rows a power of two of bytes apart would share a few sets of the first-level cache.
static inline std::size_t margin_row_words(int dims) { return margin_padded(dims) / 2 + 16; }

static inline MarginScratch margin_scratch_of(int samples, int dims, bool pairs) {
  const std::size_t classes = margin_block_of(dims), padded = margin_padded(dims), chunk = margin_chunk(samples);
  const std::size_t words = pairs ? 2 : 1, block = classes * padded;
  MarginScratch at = {};
  at.gradient = block;
  at.inverse = at.gradient + block;
  at.transposed = at.inverse + classes;
  at.logits = at.transposed + block / words;
  at.by_classes = at.logits + classes * ((chunk + 1) / 2);
  at.lanes = at.logits + classes * (pairs ? (chunk + 1) / 2 * 2 : chunk);
  at.words = at.lanes + chunk * kMarginLanes;
  at.cosines = at.words + (pairs ? block / words : 0);
  at.row_dims = at.cosines + (pairs ? chunk * kMarginPanel : 0);
  at.row_samples = at.row_dims + (pairs ? samples * margin_row_words(dims) : 0);
  at.floats = at.row_samples + (pairs ? (static_cast<std::size_t>(samples) + 1) / 2 * padded : 0);
  return at;
}

}  // namespace pnf
