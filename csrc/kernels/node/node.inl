// The node kernel. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
// Panels hold floats, whatever the states are.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/activation.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/depthwise_stage.inl"
#include "kernels/node/pool.inl"
#include "kernels/node/rows.inl"
#include "kernels/node/strips.inl"
#ifdef PNF_INTERLEAVES
#include "kernels/node/interleaved.inl"
#endif
// clang-format on

namespace pnf::PNF_ISA {
namespace {

template <typename State>
struct FloatPanels : PanelsInTurn<State, kBlock> {
  using Stage = DepthwiseStage<State>;
  using typename PanelsInTurn<State, kBlock>::Place;

  static std::ptrdiff_t stage_floats(const TermOf<State>& term) {
    return ring_floats(term) + (term.kind == TermKind::kDepthwisePooled ? filtered_floats(term) : 0);
  }
  static Stage begin(const TermOf<State>& term, int row_begin, float* ring) {
    return begin_depthwise(term, row_begin, ring);
  }
  static void output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    depthwise_output_row(stage, y, out_width, place.first + offset, place.panel);
  }
  static void pooled_output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    const TermOf<State>& term = *stage.term;
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term.width) * kBlock;
    float* const filtered = stage.ring + ring_floats(term);
    for (int r = 0; r < 2; ++r) depthwise_output_row(stage, 2 * y + r, term.width, filtered + r * row, 2 * row);
    for (int block = 0; block < term.blocks; ++block) {
      float* const out = place.at(block) + offset;
      for_each_pooled(filtered + block * 2 * row, row, out_width,
                      [out](int p, int v, Vec value) { store(out + p * kBlock + v, value); });
    }
  }
  static void activate(const State* in, int step, int pixels, const Activation& activation, float* out) {
    activate_row(in, step, pixels, activation, out);
  }
  static void activate_pooled(const State* in, std::ptrdiff_t row, int pixels, const Activation& activation,
                              float* out) {
    for_each_pooled(in, row, pixels, activation,
                    [out](int p, int v, Vec value) { store(out + p * kBlock + v, value); });
  }
#ifdef PNF_INTERLEAVES
  struct NextStates {
    const State* in;
    const float* slope;
    float* out;
  };
  static constexpr int kTile = kChunk, kUnits = kChunk;

  static const float* slopes_of(const TermOf<State>& term, float*&) { return term.slope; }
  static constexpr int kSlopeFloats = kBlock;
  static int end_of(const Stage& stage, int y) {
    const int end = y * stage.term->stride - stage.term->kernel / 2 + stage.term->kernel;
    return end < stage.term->height ? end : stage.term->height;
  }
  static NextStates next_row(const Stage& stage, int block, int iy, const float* slope) {
    const TermOf<State>& term = *stage.term;
    return {term.input + block * term.block_stride + static_cast<std::ptrdiff_t>(iy) * term.width * kBlock, slope,
            stage.slot(block, iy) + term.kernel / 2 * kBlock};
  }
  PNF_INLINE NextStates chunk_of(const NextStates& row, int chunk) {
    const int floats = chunk * kChunk * kBlock;
    return {row.in + floats, row.slope, row.out + floats};
  }
  PNF_INLINE void unit(const NextStates& states, int pixel) {
    store(states.out + pixel * kBlock, prelu(load(states.in + pixel * kBlock), load(states.slope)));
  }
  PNF_INLINE Vec product(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  template <int P, int NB>
  PNF_INLINE void store_tile(const TileOutOf<State>& out, int pixel, const Vec (&sums)[P][NB]) {
    PNF_ISA::store_tile<P, NB>(out, pixel, sums);
  }
#endif
  template <int NB>
  // Compiled alone, its loops keep more in registers.
  __attribute__((noinline)) static void multiply(const Run* runs, int n_runs, const TileOutOf<State>& out, int pixels) {
    pointwise_pixels<NB>(runs, n_runs, out, pixels, [] {});
  }
};

}  // namespace

void node_rows(const Node& node, int row_begin, int row_end, float* scratch) {
#ifdef PNF_INTERLEAVES
  if (is_interleaved(node)) return node_rows_interleaved<FloatPanels<float>>(node, row_begin, row_end, scratch);
#endif
  if (reads_as_it_lies(node)) return node_strips<FloatPanels<float>>(node, row_begin, row_end, scratch);
  node_rows_with<FloatPanels<float>>(node, row_begin, row_end, scratch);
}

void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch) {
  node_rows_with<FloatPanels<Bf16>>(node, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
