// How the kernels of cell divide their scratch. Everything is static: the kernels of each instruction set and
// the sizing function see the same arithmetic without sharing object code.
#pragma once
#include "kernels/cell/cell.h"

namespace pnf {

// Pixels whose moments are summed in fp32.
inline constexpr int kMomentPixels = 64;

static inline bool has_window(const CellTerm& term) { return term.kind == CellKind::kSeparable && term.kernel > 1; }

static inline int cell_pixels(const CellTerm& term) { return term.out_height * term.out_width; }

// Pixels that are worked on at a time: few enough for their channels to stay near, enough for the weights' gradients to
// be worth adding up in float64.
static inline int cell_chunk(const CellTerm& term) {
  constexpr int kBlockPixels = 1024, kLeast = 56, kMost = 224;
  const int widest = term.blocks > term.out_blocks ? term.blocks : term.out_blocks;
  const int chunk = kBlockPixels / widest / kLeast * kLeast;
  return chunk < kLeast ? kLeast : (chunk > kMost ? kMost : chunk);
}

// Rows of about a chunk.
static inline int chunk_rows_of(const CellTerm& term) {
  const int rows = cell_chunk(term) / term.out_width;
  return rows < 1 ? 1 : (rows > term.out_height ? term.out_height : rows);
}

static inline std::ptrdiff_t padded_floats(const CellTerm& term) {
  const std::ptrdiff_t pad = term.kernel / 2;
  return (term.height + 2 * pad) * (term.width + 2 * pad) * kBlock;
}

static inline std::ptrdiff_t row_floats(const CellTerm& term) {
  return static_cast<std::ptrdiff_t>(term.width) * kBlock;
}

}  // namespace pnf
