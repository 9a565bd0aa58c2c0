// The node kernel on states and weights of half precision, where a word's two products take one instruction. Include after
// a vocabulary from kernels/simd that has `dot`, with PNF_ISA naming its namespace.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/activation.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/depthwise_stage.inl"
#include "kernels/node/pool.inl"
#include "kernels/node/rows.inl"
#include "kernels/node/half_panels.inl"
#include "kernels/node/pairs.inl"
#include "kernels/node/dots.inl"
#ifdef PNF_INTERLEAVES
#include "kernels/node/interleaved.inl"
#endif
// clang-format on

namespace pnf::PNF_ISA {
namespace {

struct DotPanels : PairPanels<PanelsInTurn<Bf16, kBlock / 2>>, Dots {
#ifdef PNF_INTERLEAVES
  // States that become those of a panel or, with a second row, the words of a ring.
  struct NextStates {
    const Bf16* in;
    const float* slopes;
    float* out;
    const Bf16* second;
  };
  static constexpr int kTile = kChunk / 2;  // 14 sums, and registers for two pixels
  static constexpr int kUnits = kChunk / 2;
  static constexpr int kSlopeFloats = kTwoSlopesFloats;

  static const float* slopes_of(const TermOf<Bf16>& term, float*& scratch) {
    const float* const slopes = scratch;
    for (int block = 0; block < term.blocks; ++block, scratch += kSlopeFloats) {
      store_slopes(scratch, two_slopes(term.slope + block * kBlock));
    }
    return slopes;
  }
  static int end_of(const Stage& stage, int y) {
    const int top = y * stage.term->stride - stage.term->kernel / 2;
    const int end = (top - (top & 1)) / 2 + stage.pairs(), beyond = stage.term->height / 2;
    // The last row of an odd height has none beside it.
    return end < beyond ? end : beyond;
  }
  static NextStates next_row(const Stage& stage, int block, int pair, const float* slopes) {
    const TermOf<Bf16>& term = *stage.term;
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term.width) * kBlock;
    const Bf16* const first = term.input + block * term.block_stride + 2 * pair * row;
    return {first, slopes, stage.slot(block, pair) + term.kernel / 2 * kBlock, first + row};
  }
  PNF_INLINE NextStates chunk_of(const NextStates& row, int chunk) {
    const int elements = chunk * kChunk * kBlock;
    return {row.in + elements, row.slopes, row.out + (row.second == nullptr ? elements / 2 : elements),
            row.second == nullptr ? nullptr : row.second + elements};
  }
  PNF_INLINE void unit(const NextStates& states, int two) {
    const TwoSlopes slopes = load_slopes(states.slopes);
    const int at = 2 * two * kBlock;
    const Two first = prelu_two(load_two(states.in + at), slopes);
    if (states.second == nullptr) {
      store_two(halves(states.out) + at, first);
    } else {
      store_pairs_of_two(states.out + at, first, prelu_two(load_two(states.second + at), slopes));
    }
  }
  PNF_INLINE Vec product(Vec a, Vec b, Vec c) { return dot(a, b, c); }
  template <int P, int NB>
  PNF_INLINE void store_tile(const TileOutOf<Bf16>& out, int pixel, const Vec (&sums)[P][NB]) {
    store_halves_tile<P, NB>(out, pixel, sums);
  }
#endif
};

}  // namespace

void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch) {
#ifdef PNF_INTERLEAVES
  // One block of outputs keeps the loads busy; where a product takes two cycles, its own way costs more than it hides.
  const bool pays = node.blocks > 1 || node.wide_units;
  if (pays && is_interleaved(node)) return node_rows_interleaved<DotPanels>(node, row_begin, row_end, scratch);
#endif
  node_rows_with<DotPanels>(node, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
