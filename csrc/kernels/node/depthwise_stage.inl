// A depthwise convolution on floats, whatever the states are: each input row is activated once, into a ring of k padded rows
// per block. Include after activation.inl and depthwise.inl.
#include "kernels/assert.h"
#include "kernels/node/scratch.h"

namespace pnf::PNF_ISA {
namespace {

PNF_INLINE void clear(float* out, int floats) {
  for (int i = 0; i < floats; i += kLanes) store(out + i, splat(0.0f));
}

// A block's depthwise weights in words.
template <typename State>
PNF_INLINE std::ptrdiff_t filter_words(const TermOf<State>& term) {
  const int rows = sizeof(State) == sizeof(float) ? term.kernel : (term.kernel + 1) / 2;
  return static_cast<std::ptrdiff_t>(rows) * term.kernel * kBlock;
}

constexpr int kMostTaps = kMaxKernel * kMaxKernel * kBlock;

// A block's depthwise weights as floats: where they lie, or in `taps`.
PNF_INLINE const float* taps_of(const Term& term, int block, float*) {
  return term.depthwise + block * filter_words(term);
}
inline const float* taps_of(const TermOf<Bf16>& term, int block, float* taps) {
  PNF_ASSERT(term.kernel <= kMaxKernel);
  const float* const words = term.depthwise + block * filter_words(term);
  const int row = term.kernel * kBlock;
  for (int ky = 0; ky < term.kernel; ++ky) {
    // The last row of an odd number lies in the upper halves, as every second one does.
    const bool low = ky % 2 == 0 && ky + 1 < term.kernel;
    for (int i = 0; i < row; i += kLanes) {
      const Vec pairs = load(words + ky / 2 * row + i);
      store(taps + ky * row + i, low ? low_half(pairs) : high_half(pairs));
    }
  }
  return taps;
}

// What becomes of the sums of a block, of a term whose kind is known.
template <typename State>
PNF_INLINE Middle middle_of(const TermOf<State>& term, MiddleKind kind, int block) {
  return kind == MiddleKind::kNone ? kNoMiddle : Middle{kind, term.middle + block * kMiddleFloats};
}

// A convolution whose result is pooled takes every row, whatever the term's stride.
template <typename State>
PNF_INLINE int filter_stride(const TermOf<State>& term) {
  return term.kind == TermKind::kDepthwisePooled ? 1 : term.stride;
}

// One depthwise term in progress: its ring, and the first input row that is not in the ring yet.
template <typename State, typename Element = float>
struct DepthwiseStage {
  const TermOf<State>* term;
  DepthwiseRowOf<Element> row;
  MiddleKind middle;
  float* ring;
  int next;

  float* slot(int block, int iy) const {
    return ring + static_cast<std::ptrdiff_t>(block * term->kernel + iy % term->kernel) * ring_width(*term) * kBlock;
  }
};

template <typename State, typename Element>
DepthwiseStage<State, Element> begin_depthwise(const TermOf<State>& term, DepthwiseRowOf<Element> row, int row_begin,
                                               float* ring) {
  const int pad = term.kernel / 2;
  const int top = row_begin * term.stride - pad;
  const DepthwiseStage<State, Element> stage = {&term, row, middle_kind(term.middle, term.blocks), ring,
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
DepthwiseStage<State> begin_depthwise(const TermOf<State>& term, int row_begin, float* ring) {
  return begin_depthwise(term, depthwise_row_of(term.kernel, filter_stride(term)), row_begin, ring);
}

// Row y of the output, of each block to out(block).
template <typename State, typename Element, typename Out>
PNF_INLINE void depthwise_output_row(DepthwiseStage<State, Element>& stage, int y, int out_width, Out out) {
  const TermOf<State>& term = *stage.term;
  const int pad = term.kernel / 2;
  const int top = y * filter_stride(term) - pad;
  const int ky_begin = top < 0 ? -top : 0;
  const int ky_end = top + term.kernel > term.height ? term.height - top : term.kernel;
  alignas(64) float taps[kMostTaps];
  for (int block = 0; block < term.blocks; ++block) {
    const State* in = term.input + block * term.block_stride;
    const float* const weights = taps_of(term, block, taps);
    const Middle middle = middle_of(term, stage.middle, block);
    const float* rows[kMaxKernel];
    PNF_ASSERT(ky_begin >= 0 && ky_end <= kMaxKernel);
    for (int iy = stage.next; iy < top + ky_end; ++iy) {
      activate_row(in + static_cast<std::ptrdiff_t>(iy) * term.width * kBlock, 1, term.width,
                   activation_of(term, block), stage.slot(block, iy) + pad * kBlock);
    }
    for (int ky = ky_begin; ky < ky_end; ++ky) rows[ky] = stage.slot(block, top + ky);
    stage.row(rows, ky_begin, ky_end, out_width, weights, middle, out(block));
  }
  if (top + ky_end > stage.next) stage.next = top + ky_end;
}

// The same, of block b to out + b * block_stride.
template <typename State>
void depthwise_output_row(DepthwiseStage<State>& stage, int y, int out_width, float* out, std::ptrdiff_t block_stride) {
  depthwise_output_row(stage, y, out_width, [=](int block) { return out + block * block_stride; });
}

}  // namespace
}  // namespace pnf::PNF_ISA
