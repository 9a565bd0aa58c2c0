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

// A convolution whose result is pooled takes every row, whatever the term's stride.
template <typename State>
PNF_INLINE int filter_stride(const TermOf<State>& term) {
  return term.kind == TermKind::kDepthwisePooled ? 1 : term.stride;
}

// One depthwise term in progress: its ring, and the first input row that is not in the ring yet; or, where nothing becomes of
// the rows that it reads, they are read where they lie, and the ring's memory holds their padded ends.
template <typename State>
struct DepthwiseStage {
  const TermOf<State>* term;
  DepthwiseRow row;
  float* ring;
  int next;
  bool in_place;

  float* slot(int block, int iy) const {
    return ring + static_cast<std::ptrdiff_t>(block * term->kernel + iy % term->kernel) * ring_width(*term) * kBlock;
  }
};

// Whether rows can be read where they lie. Their ends take as long as bringing some 16 pixels into the ring.
template <typename State>
bool reads_in_place(const TermOf<State>& term) {
  constexpr int kLeastWidth = 32;
  if (sizeof(State) != sizeof(float) || filter_stride(term) != 1 || term.cap != nullptr || term.width < kLeastWidth) {
    return false;
  }
  for (int i = 0; i < term.blocks * kBlock; ++i) {
    if (term.slope[i] != 1.0f) return false;
  }
  return true;
}

template <typename State>
DepthwiseStage<State> begin_depthwise(const TermOf<State>& term, int row_begin, float* ring) {
  const int pad = term.kernel / 2;
  const int top = row_begin * term.stride - pad;
  const DepthwiseRow row =
      depthwise_row_of<State>(middle_kind(term.middle, term.blocks), term.kernel, filter_stride(term));
  const DepthwiseStage<State> stage = {&term, row, ring, top < 0 ? 0 : top, reads_in_place(term)};
  if (stage.in_place) return stage;
  for (int block = 0; block < term.blocks; ++block) {
    for (int slot = 0; slot < term.kernel; ++slot) {
      clear(stage.slot(block, slot), pad * kBlock);
      clear(stage.slot(block, slot) + (pad + term.width) * kBlock, pad * kBlock);
    }
  }
  return stage;
}

// The first and last pixels of a row, whose windows reach beyond it: as many as that is wide.
inline void depthwise_row_ends(DepthwiseRow row, const float* const* rows, int ky_begin, int ky_end, int width, int pad,
                               const float* weights, const float* middle, float* padded, float* out) {
  const float* ends[kMaxKernel];
  for (int right = 0; right < 2; ++right) {
    float* to = padded;
    for (int ky = ky_begin; ky < ky_end; ++ky) {
      ends[ky] = to;
      const float* const from = right == 1 ? rows[ky] + (width - 2 * pad) * kBlock : rows[ky];
      if (right == 0) {
        clear(to, pad * kBlock);
        to += pad * kBlock;
      }
      for (int i = 0; i < 2 * pad * kBlock; i += kLanes) store(to + i, load(from + i));
      to += 2 * pad * kBlock;
      if (right == 1) {
        clear(to, pad * kBlock);
        to += pad * kBlock;
      }
    }
    row(ends, ky_begin, ky_end, pad, weights, middle, right == 1 ? out + (width - pad) * kBlock : out);
  }
}

// Row y of the output, of block b to out + b * block_stride.
template <typename State>
void depthwise_output_row(DepthwiseStage<State>& stage, int y, int out_width, float* out, std::ptrdiff_t block_stride) {
  const TermOf<State>& term = *stage.term;
  const int pad = term.kernel / 2;
  const int top = y * filter_stride(term) - pad;
  const int ky_begin = top < 0 ? -top : 0;
  const int ky_end = top + term.kernel > term.height ? term.height - top : term.kernel;
  for (int block = 0; block < term.blocks; ++block) {
    const State* in = term.input + block * term.block_stride;
    const float* const weights = term.depthwise + block * filter_words(term);
    const float* const middle = term.middle == nullptr ? nullptr : term.middle + block * kMiddleFloats;
    const float* rows[kMaxKernel];
    PNF_ASSERT(ky_begin >= 0 && ky_end <= kMaxKernel);
    if constexpr (sizeof(State) == sizeof(float)) {
      if (stage.in_place) {
        for (int ky = ky_begin; ky < ky_end; ++ky)
          rows[ky] = in + static_cast<std::ptrdiff_t>(top + ky) * term.width * kBlock;
        float* const to = out + block * block_stride;
        stage.row(rows, ky_begin, ky_end, out_width - 2 * pad, weights, middle, to + pad * kBlock);
        depthwise_row_ends(stage.row, rows, ky_begin, ky_end, out_width, pad, weights, middle, stage.ring, to);
        continue;
      }
    }
    for (int iy = stage.next; iy < top + ky_end; ++iy) {
      activate_row(in + static_cast<std::ptrdiff_t>(iy) * term.width * kBlock, 1, term.width,
                   activation_of(term, block), stage.slot(block, iy) + pad * kBlock);
    }
    for (int ky = ky_begin; ky < ky_end; ++ky) rows[ky] = stage.slot(block, top + ky);
    stage.row(rows, ky_begin, ky_end, out_width, weights, middle, out + block * block_stride);
  }
  if (top + ky_end > stage.next) stage.next = top + ky_end;
}

}  // namespace
}  // namespace pnf::PNF_ISA
