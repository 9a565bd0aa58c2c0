// The node kernel. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
// Panels hold floats, whatever the states are.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/pool.inl"
#include "kernels/node/scratch.h"
#include "kernels/node/rows.inl"
// clang-format on

namespace pnf::PNF_ISA {
namespace {

template <typename State>
PNF_INLINE void activate_row(const State* in, int step, int pixels, const float* slope, float* out) {
  Vec s[kVecs];
  for (int v = 0; v < kVecs; ++v) s[v] = load(slope + v * kLanes);
  for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      store(out + p * kBlock + v * kLanes, prelu(load(in + p * step * kBlock + v * kLanes), s[v]));
    }
  }
}

// A block's depthwise weights in words.
template <typename State>
PNF_INLINE std::ptrdiff_t filter_words(const TermOf<State>& term) {
  const int rows = sizeof(State) == sizeof(float) ? term.kernel : (term.kernel + 1) / 2;
  return static_cast<std::ptrdiff_t>(rows) * term.kernel * kBlock;
}

// One depthwise term in progress: its ring, and the first input row that is not in the ring yet.
template <typename State>
struct DepthwiseStage {
  const TermOf<State>* term;
  DepthwiseRow row;
  float* ring;
  int next;

  float* slot(int block, int iy) const {
    return ring + static_cast<std::ptrdiff_t>(block * term->kernel + iy % term->kernel) * ring_width(*term) * kBlock;
  }
};

template <typename State>
DepthwiseStage<State> begin_depthwise(const TermOf<State>& term, int row_begin, float* ring) {
  const int pad = term.kernel / 2;
  const int top = row_begin * term.stride - pad;
  const DepthwiseStage<State> stage = {&term, depthwise_row_of<State>(term.kernel, term.stride), ring,
                                       top < 0 ? 0 : top};
  for (int block = 0; block < term.blocks; ++block) {
    for (int slot = 0; slot < term.kernel; ++slot) {
      clear(stage.slot(block, slot), pad * kBlock);
      clear(stage.slot(block, slot) + (pad + term.width) * kBlock, pad * kBlock);
    }
  }
  return stage;
}

template <typename State>
void depthwise_output_row(DepthwiseStage<State>& stage, int y, int out_width,
                          const typename PanelsInTurn<State, kBlock>::Place& place, std::ptrdiff_t offset) {
  const TermOf<State>& term = *stage.term;
  const int pad = term.kernel / 2;
  const int top = y * term.stride - pad;
  const int ky_begin = top < 0 ? -top : 0;
  const int ky_end = top + term.kernel > term.height ? term.height - top : term.kernel;
  for (int block = 0; block < term.blocks; ++block) {
    const State* in = term.input + block * term.block_stride;
    for (int iy = stage.next; iy < top + ky_end; ++iy) {
      activate_row(in + static_cast<std::ptrdiff_t>(iy) * term.width * kBlock, 1, term.width,
                   term.slope + block * kBlock, stage.slot(block, iy) + pad * kBlock);
    }
    const float* rows[kMaxKernel];
    PNF_ASSERT(ky_begin >= 0 && ky_end <= kMaxKernel);
    for (int ky = ky_begin; ky < ky_end; ++ky) rows[ky] = stage.slot(block, top + ky);
    stage.row(rows, ky_begin, ky_end, out_width, term.depthwise + block * filter_words(term), place.at(block) + offset);
  }
  if (top + ky_end > stage.next) stage.next = top + ky_end;
}

template <typename State>
struct FloatPanels : PanelsInTurn<State, kBlock> {
  using Stage = DepthwiseStage<State>;
  using typename PanelsInTurn<State, kBlock>::Place;

  static std::ptrdiff_t stage_floats(const TermOf<State>& term) { return ring_floats(term); }
  static Stage begin(const TermOf<State>& term, int row_begin, float* ring) {
    return begin_depthwise(term, row_begin, ring);
  }
  static void output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    depthwise_output_row(stage, y, out_width, place, offset);
  }
  static void activate(const State* in, int step, int pixels, const float* slope, float* out) {
    activate_row(in, step, pixels, slope, out);
  }
  template <int NB>
  // Compiled alone, its loops keep more in registers.
  __attribute__((noinline)) static void multiply(const Run* runs, int n_runs, const TileOutOf<State>& out, int pixels) {
    pointwise_pixels<NB>(runs, n_runs, out, pixels, [] {});
  }
};

}  // namespace

void node_rows(const Node& node, int row_begin, int row_end, float* scratch) {
  node_rows_with<FloatPanels<float>>(node, row_begin, row_end, scratch);
}

void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch) {
  node_rows_with<FloatPanels<Bf16>>(node, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
