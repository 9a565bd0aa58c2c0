#include "kernels/cell/cell.h"

#include "kernels/cell/scratch.h"

namespace pnf {

bool filters_plane(const CellTerm& term) { return has_window(term); }

// cell_gradient needs, for an operation with
//   a depthwise window   a chunk of output gradients, two padded planes of each block, two rows, the filtered planes, and
//                        with stride 2 their gradients
//   a kernel of 1        a chunk of output gradients, of activations and of their gradients, and one block
//   pooling              the output's gradients, an input plane and its gradient
// of which cell_products needs a part.
std::size_t cell_scratch(const CellTerm& term) {
  const std::size_t chunk = static_cast<std::size_t>(cell_chunk(term)) * kBlock;
  const std::size_t pixels = cell_pixels(term);
  if (term.kind == CellKind::kMaxPool || term.kind == CellKind::kAvgPool) {
    return pixels * kBlock * term.out_blocks + 2 * term.height * row_floats(term);
  }
  if (has_window(term)) {
    const std::size_t rows = static_cast<std::size_t>(chunk_rows_of(term)) * term.out_width * kBlock;
    const std::size_t planes = pixels * term.blocks * kBlock;
    return rows * term.out_blocks + 2 * term.blocks * padded_floats(term) + 2 * row_floats(term) +
           (term.stride > 1 ? 2 : 1) * planes;
  }
  return chunk * (term.out_blocks + 2 * term.blocks + 1);
}

}  // namespace pnf
