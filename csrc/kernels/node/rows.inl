// The node kernel but for how the inputs of its product are prepared, which `Panels` says. A panel has 16 input channels
// of the pixels of a band, or what becomes of them; `Panels` has one for each block of each convolution.
//
//   kStep                         words from a pixel of a panel to the next
//   arrange                       divides scratch among the panels of a node
//   place[term]                   where they lie: place[term].at(block)
//   Stage, stage_floats, begin, output_row, pooled_output_row
//                                 a depthwise term in progress, its memory, and its next row of every panel, or the next
//                                 row of what is pooled of its result
//   activate, activate_pooled     a row of a panel for a pointwise term
//   runs                          all panels that one or more blocks of outputs are the sum of, kMostRuns at most
//   multiply<NB>                  their products, NB blocks of outputs
//
// Rows are taken a few at a time. For each term the activated input of those rows is brought into scratch: for a
// depthwise term through a ring of k padded rows per block, so that PReLU is applied once per element and the
// ring stays in the first-level cache; then one register-tiled product over all terms writes the output once.
#include "kernels/assert.h"

namespace pnf::PNF_ISA {
namespace {

template <typename State>
PNF_INLINE bool is_convolution(const TermOf<State>& term) {
  return term.kind == TermKind::kPointwise || term.kind == TermKind::kDepthwise ||
         term.kind == TermKind::kPooledPointwise || term.kind == TermKind::kDepthwisePooled;
}

template <typename State>
PNF_INLINE bool has_output(const TermOf<State>& term, int block) {
  return block >= term.first_out && block < term.first_out + term.out_blocks;
}

template <typename State>
void add_row(const State* in, int pixels, bool accumulate, float* out) {
  for (int i = 0; i < pixels * kBlock; i += kLanes) {
    store(out + i, accumulate ? add(load(in + i), load(out + i)) : load(in + i));
  }
}

// A row of the state whose pixels are twice as large.
template <typename State>
void add_upsampled_row(const State* in, int pixels, bool accumulate, float* out) {
  for (int p = 0; p < pixels; ++p, out += kBlock) {
    for (int lane = 0; lane < kBlock; lane += kLanes) {
      const Vec value = load(in + p / 2 * kBlock + lane);
      store(out + lane, accumulate ? add(value, load(out + lane)) : value);
    }
  }
}

// What needs no product: sums, and a state that is read where it lies.
template <typename State>
struct Addends {
  const float* sums;  // null, or [blocks][rows]
  std::ptrdiff_t sums_stride;
  const State* identity;  // the same
  std::ptrdiff_t identity_stride;
};

// Where the blocks of outputs from `block` on begin in row y, and what is added to their products from there on.
template <typename State>
PNF_INLINE TileOutOf<State> tile_out(const NodeOf<State>& node, const Addends<State>& addends, int block, int y) {
  return {.bias = node.bias + block * kBlock,
          .addend = addends.sums == nullptr ? nullptr : addends.sums + block * addends.sums_stride,
          .addend_stride = addends.sums_stride,
          .identity = addends.identity == nullptr ? nullptr : addends.identity + block * addends.identity_stride,
          .identity_stride = addends.identity_stride,
          .output = node.output + block * node.block_stride + static_cast<std::ptrdiff_t>(y) * node.width * kBlock,
          .output_stride = node.block_stride};
}

// What row y of a pointwise term's output reads of a block of its input.
template <typename State>
PNF_INLINE const State* pointwise_row(const TermOf<State>& term, int block, int y) {
  const std::ptrdiff_t iy = static_cast<std::ptrdiff_t>(y) * term.stride + term.shift;
  return term.input + block * term.block_stride + (iy * term.width + term.shift) * kBlock;
}

// A row of a block of a term that has neither a product nor a convolution.
template <typename State>
void add_addend_row(const TermOf<State>& term, int block, int y, int width, bool accumulate, float* out) {
  const State* const in = term.input + block * term.block_stride;
  switch (term.kind) {
    case TermKind::kMaxPool:
      return pool_row<true>(term, block, y, width, accumulate, out);
    case TermKind::kAvgPool:
      return pool_row<false>(term, block, y, width, accumulate, out);
    case TermKind::kUpsampled:
      return add_upsampled_row(in + static_cast<std::ptrdiff_t>(y / 2) * term.width * kBlock, width, accumulate, out);
    default:
      return add_row(in + static_cast<std::ptrdiff_t>(y) * width * kBlock, width, accumulate, out);
  }
}

// A row of all blocks of a convolution whose result is summed as it is; `spare` has room for it.
template <typename State>
void add_depthwise_row(DepthwiseStage<State>& stage, int y, int width, bool accumulate, float* spare, float* out,
                       std::ptrdiff_t block_stride) {
  if (!accumulate) return depthwise_output_row(stage, y, width, out, block_stride);
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(width) * kBlock;
  depthwise_output_row(stage, y, width, spare, row);
  for (int block = 0; block < stage.term->blocks; ++block) {
    add_row(spare + block * row, width, true, out + block * block_stride);
  }
}

// The terms without a product, for `rows` rows from `y`: one identity as it is, the sum of all others. `stages` are those of
// the terms that are depthwise alone.
template <typename State>
Addends<State> sum_addends(const NodeOf<State>& node, DepthwiseStage<State>* stages, int y, int rows, float* scratch) {
  const std::ptrdiff_t row_floats = static_cast<std::ptrdiff_t>(node.width) * kBlock;
  Addends<State> addends = {};
  const TermOf<State>* identity = nullptr;
  int others = 0;
  for (int t = 0; t < node.terms; ++t) {
    const TermOf<State>& term = node.term[t];
    if (is_convolution(term)) continue;
    if (term.kind == TermKind::kIdentity && identity == nullptr) {
      identity = &term;
      addends.identity = term.input + y * row_floats;
      addends.identity_stride = term.block_stride;
    } else {
      ++others;
    }
  }
  if (others == 0) return addends;
  const std::ptrdiff_t stride = rows * row_floats;
  bool accumulate = false;
  for (int t = 0; t < node.terms; ++t) {
    const TermOf<State>& term = node.term[t];
    if (is_convolution(term) || &term == identity) continue;
    for (int r = 0; r < rows; ++r) {
      float* const out = scratch + r * row_floats;
      if (term.kind == TermKind::kDepthwiseAlone) {
        add_depthwise_row(stages[t], y + r, node.width, accumulate, scratch + node.blocks * stride, out, stride);
        continue;
      }
      for (int block = 0; block < node.blocks; ++block) {
        add_addend_row(term, block, y + r, node.width, accumulate, out + block * stride);
      }
    }
    accumulate = true;
  }
  addends.sums = scratch;
  addends.sums_stride = stride;
  return addends;
}

// Panels of a term one behind another.
template <typename State, int Step>
struct PanelsInTurn {
  struct Place {
    float* first;
    std::ptrdiff_t panel;
    float* at(int block) const { return first + block * panel; }
  };
  static constexpr int kStep = Step;
  static constexpr int kMostRuns = kMaxTerms;  // one of each term
  Place place[kMaxTerms];

  float* arrange(const NodeOf<State>& node, float* scratch) {
    const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(band_rows(node)) * node.width * kStep;
    for (int t = 0; t < node.terms; ++t) {
      if (!is_convolution(node.term[t])) continue;
      place[t] = {scratch, panel};
      scratch += node.term[t].blocks * panel;
    }
    return scratch;
  }

  int runs(const NodeOf<State>& node, int block, Run* run) const {
    int count = 0;
    for (int t = 0; t < node.terms; ++t) {
      const TermOf<State>& term = node.term[t];
      if (!is_convolution(term) || !has_output(term, block)) continue;
      const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(term.blocks) * kPanelWords<State>;
      PNF_ASSERT(count < kMostRuns);
      run[count++] = {place[t].first, place[t].panel, term.pointwise + (block - term.first_out) * per_block, per_block,
                      term.blocks};
    }
    return count;
  }
};

template <typename Panels, typename State>
void node_rows_with(const NodeOf<State>& node, int row_begin, int row_end, float* scratch) {
  PNF_ASSERT(node.terms >= 0 && node.terms <= kMaxTerms);
  const int band = band_rows(node);
  const std::ptrdiff_t row_words = static_cast<std::ptrdiff_t>(node.width) * Panels::kStep;

  Panels panels;
  scratch = panels.arrange(node, scratch);
  typename Panels::Stage stages[kMaxTerms];
  DepthwiseStage<State> alone[kMaxTerms];
  bool partial = false;
  for (int t = 0; t < node.terms; ++t) {
    const TermOf<State>& term = node.term[t];
    if (term.kind == TermKind::kDepthwiseAlone) {
      alone[t] = begin_depthwise(term, row_begin, scratch);
      scratch += ring_floats(term);
    }
    if (!is_convolution(term)) continue;
    if (term.kind == TermKind::kDepthwise || term.kind == TermKind::kDepthwisePooled) {
      stages[t] = Panels::begin(term, row_begin, scratch);
      scratch += Panels::stage_floats(term);
    }
    partial = partial || term.out_blocks != node.blocks;
  }

  for (int y = row_begin; y < row_end; y += band) {
    const int rows = row_end - y < band ? row_end - y : band;
    for (int t = 0; t < node.terms; ++t) {
      const TermOf<State>& term = node.term[t];
      if (!is_convolution(term)) continue;
      for (int r = 0; r < rows; ++r) {
        if (term.kind == TermKind::kDepthwise) {
          panels.output_row(stages[t], y + r, node.width, panels.place[t], r * row_words);
          continue;
        }
        if (term.kind == TermKind::kDepthwisePooled) {
          panels.pooled_output_row(stages[t], y + r, node.width, panels.place[t], r * row_words);
          continue;
        }
        for (int block = 0; block < term.blocks; ++block) {
          const State* const in = pointwise_row(term, block, y + r);
          float* const panel = panels.place[t].at(block) + r * row_words;
          const Activation activation = activation_of(term, block);
          if (term.kind == TermKind::kPooledPointwise) {
            Panels::activate_pooled(in, static_cast<std::ptrdiff_t>(term.width) * kBlock, node.width, activation,
                                    panel);
          } else {
            panels.activate(in, term.stride, node.width, activation, panel);
          }
        }
      }
    }
    const Addends<State> addends = sum_addends(node, alone, y, rows, scratch);

    const int group = partial ? 1 : kTileBlocks;
    for (int block = 0; block < node.blocks;) {
      const int here = node.blocks - block < group ? 1 : group;
      Run runs[Panels::kMostRuns];
      const int n_runs = panels.runs(node, block, runs);
      const TileOutOf<State> out = tile_out(node, addends, block, y);
      const int pixels = rows * node.width;
      if (here == 1) {
        panels.template multiply<1>(runs, n_runs, out, pixels);
      } else {
        panels.template multiply<kTileBlocks>(runs, n_runs, out, pixels);
      }
      block += here;
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
