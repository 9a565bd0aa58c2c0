// The node kernel but for how the inputs of its product are prepared, which `Panels` says:
//
//   kWords                        words of a pixel in a panel of 16 input channels
//   kPanelWeights                 words of a panel's weights
//   Stage, stage_floats, begin, output_row
//                                 a depthwise term in progress, its memory, and its next row of a panel
//   activate                      a row of a panel for a pointwise term
//   multiply<NB>                  the products of all panels, NB blocks of outputs
//
// Rows are taken a few at a time. For each term the activated input of those rows is brought into scratch: for a
// depthwise term through a ring of k padded rows per block, so that PReLU is applied once per element and the
// ring stays in the first-level cache; then one register-tiled product over all terms writes the output once.
namespace pnf::PNF_ISA {
namespace {

void clear(float* out, int floats) {
  for (int i = 0; i < floats; i += kLanes) store(out + i, splat(0.0f));
}

template <typename State>
void add_row(const State* in, int pixels, bool accumulate, float* out) {
  for (int i = 0; i < pixels * kBlock; i += kLanes) {
    store(out + i, accumulate ? add(load(in + i), load(out + i)) : load(in + i));
  }
}

struct Addend {
  const float* data;
  std::ptrdiff_t stride;
};

// The terms without weights, summed over `rows` rows from `y`. A single identity of floats is read where it lies.
template <typename State>
Addend sum_addends(const NodeOf<State>& node, int y, int rows, float* scratch) {
  int others = 0;
  const TermOf<State>* identity = nullptr;
  for (int t = 0; t < node.terms; ++t) {
    const TermKind kind = node.term[t].kind;
    if (kind == TermKind::kIdentity) identity = &node.term[t];
    if (kind == TermKind::kIdentity || kind == TermKind::kMaxPool || kind == TermKind::kAvgPool) ++others;
  }
  if (others == 0) return {nullptr, 0};
  const std::ptrdiff_t row_floats = static_cast<std::ptrdiff_t>(node.width) * kBlock;
  if constexpr (sizeof(State) == sizeof(float)) {
    if (others == 1 && identity != nullptr) return {identity->input + y * row_floats, identity->block_stride};
  }
  const std::ptrdiff_t stride = rows * row_floats;
  bool accumulate = false;
  for (int t = 0; t < node.terms; ++t) {
    const TermOf<State>& term = node.term[t];
    if (term.kind == TermKind::kPointwise || term.kind == TermKind::kDepthwise) continue;
    for (int block = 0; block < node.blocks; ++block) {
      for (int r = 0; r < rows; ++r) {
        float* out = scratch + block * stride + r * row_floats;
        if (term.kind == TermKind::kMaxPool) {
          pool_row<true>(term, block, y + r, node.width, accumulate, out);
        } else if (term.kind == TermKind::kAvgPool) {
          pool_row<false>(term, block, y + r, node.width, accumulate, out);
        } else {
          add_row(term.input + block * term.block_stride + (y + r) * row_floats, node.width, accumulate, out);
        }
      }
    }
    accumulate = true;
  }
  return {scratch, stride};
}

template <typename Panels, typename State>
void node_rows_with(const NodeOf<State>& node, int row_begin, int row_end, float* scratch) {
  const int band = band_rows(node);
  const std::ptrdiff_t row_floats = static_cast<std::ptrdiff_t>(node.width) * kBlock;
  const std::ptrdiff_t row_words = static_cast<std::ptrdiff_t>(node.width) * Panels::kWords;
  const std::ptrdiff_t panel = band * row_words;

  typename Panels::Stage stages[kMaxTerms];
  float* activated[kMaxTerms] = {};
  bool partial = false;
  for (int t = 0; t < node.terms; ++t) {
    const TermOf<State>& term = node.term[t];
    if (term.kind != TermKind::kPointwise && term.kind != TermKind::kDepthwise) continue;
    activated[t] = scratch;
    scratch += term.blocks * panel;
    if (term.kind == TermKind::kDepthwise) {
      stages[t] = Panels::begin(term, row_begin, scratch);
      scratch += Panels::stage_floats(term);
    }
    partial = partial || term.out_blocks != node.blocks;
  }

  for (int y = row_begin; y < row_end; y += band) {
    const int rows = row_end - y < band ? row_end - y : band;
    for (int t = 0; t < node.terms; ++t) {
      const TermOf<State>& term = node.term[t];
      if (activated[t] == nullptr) continue;
      for (int r = 0; r < rows; ++r) {
        float* out = activated[t] + r * row_words;
        if (term.kind == TermKind::kDepthwise) {
          Panels::output_row(stages[t], y + r, node.width, out, panel);
          continue;
        }
        const std::ptrdiff_t iy = static_cast<std::ptrdiff_t>(y + r) * term.stride + term.shift;
        for (int block = 0; block < term.blocks; ++block) {
          Panels::activate(term.input + block * term.block_stride + (iy * term.width + term.shift) * kBlock,
                           term.stride, node.width, term.slope + block * kBlock, out + block * panel);
        }
      }
    }
    const Addend addend = sum_addends(node, y, rows, scratch);

    const int group = partial ? 1 : kTileBlocks;
    for (int block = 0; block < node.blocks;) {
      const int here = node.blocks - block < group ? 1 : group;
      Run runs[kMaxTerms];
      int n_runs = 0;
      for (int t = 0; t < node.terms; ++t) {
        const TermOf<State>& term = node.term[t];
        if (activated[t] == nullptr || block < term.first_out || block >= term.first_out + term.out_blocks) continue;
        const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(term.blocks) * Panels::kPanelWeights;
        runs[n_runs++] = {activated[t], panel, term.pointwise + (block - term.first_out) * per_block, per_block,
                          term.blocks};
      }
      const TileOutOf<State> out = {
          node.bias + block * kBlock, addend.data == nullptr ? nullptr : addend.data + block * addend.stride,
          addend.stride, node.output + block * node.block_stride + y * row_floats, node.block_stride};
      const int pixels = rows * node.width;
      if (here == 1) {
        Panels::template multiply<1>(runs, n_runs, out, pixels);
      } else {
        Panels::template multiply<kTileBlocks>(runs, n_runs, out, pixels);
      }
      block += here;
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
