#include "kernels/node/node.h"

#include <algorithm>

#include "kernels/node/scratch.h"

namespace pnf {

std::size_t node_scratch(const Node& node) {
  const std::size_t panel = static_cast<std::size_t>(band_rows(node)) * node.width * kBlock;
  std::size_t floats = panel * node.blocks;
  for (int t = 0; t < node.terms; ++t) {
    const Term& term = node.term[t];
    const bool pooled = term.kind == TermKind::kDepthwisePooled;
    if (term.kind == TermKind::kPointwise || term.kind == TermKind::kDepthwise ||
        term.kind == TermKind::kPooledPointwise || pooled) {
      // interleaved.inl has two rows of a panel, and slopes in an order of its own.
      const std::size_t rows = std::max<std::size_t>(panel, 2 * static_cast<std::size_t>(node.width) * kBlock);
      floats += (rows + 2 * kBlock) * term.blocks + last_weights_floats(node, term);
    }
    if (term.kind == TermKind::kDepthwise || pooled) floats += ring_floats(term) + pair_weights_floats(term);
    if (pooled) floats += filtered_floats(term);
    // A row of results that are added to others, besides.
    if (term.kind == TermKind::kDepthwiseAlone) {
      floats += ring_floats(term) + static_cast<std::size_t>(node.width) * node.blocks * kBlock;
    }
  }
  return floats;
}

}  // namespace pnf
