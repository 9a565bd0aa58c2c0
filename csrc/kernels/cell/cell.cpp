#include "kernels/cell/cell.h"

#include "kernels/cell/scratch.h"

namespace pnf {

bool filters_plane(const CellTerm& term) { return has_window(term); }

namespace {

std::size_t lines(std::size_t floats) { return (floats + kBlock - 1) / kBlock * kBlock; }

}  // namespace

// cell_gradient needs, for an operation with
//   a depthwise window   in floats: a chunk of output gradients, two padded planes of each block, two rows, the filtered
//                        planes, and with stride 2 their gradients; in pairs: a chunk of output gradients twice and of one
//                        filtered block, a padded plane of each block and one more, five rows, and the filtered planes and
//                        their gradients, each half as large
//   a kernel of 1        a chunk of output gradients, of activations and of their gradients, and one block
//   pooling              the output's gradients, an input plane and its gradient
// of which cell_products needs a part, and with half precision's states in floats a chunk of products.
std::size_t cell_scratch(const CellTerm& term) {
  const std::size_t chunk = static_cast<std::size_t>(cell_chunk(term)) * kBlock;
  const std::size_t pixels = cell_pixels(term);
  if (term.kind == CellKind::kMaxPool || term.kind == CellKind::kAvgPool) {
    return pixels * kBlock * term.out_blocks + 2 * term.height * row_floats(term);
  }
  if (has_window(term)) {
    const std::size_t rows = static_cast<std::size_t>(chunk_rows_of(term)) * term.out_width * kBlock;
    const std::size_t planes = pixels * term.blocks * kBlock, row = row_floats(term), padded = padded_floats(term);
    const std::size_t in_floats =
        rows * term.out_blocks + 2 * term.blocks * padded + 2 * row + (term.stride > 1 ? 2 : 1) * planes;
    const std::size_t in_pairs = (lines(rows / 2) + lines(rows / 2 + kBlock)) * term.out_blocks +
                                 lines(rows / 2 + kBlock) + (term.blocks + 1) * padded + 3 * lines(row / 2) + row +
                                 2 * lines(planes / 2);
    const std::size_t most = in_floats > in_pairs ? in_floats : in_pairs, products = chunk * term.out_blocks;
    return most > products ? most : products;
  }
  return chunk * (term.out_blocks + 2 * term.blocks + 1);
}

}  // namespace pnf
