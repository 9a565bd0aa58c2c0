// Nodes that prepare what the next row reads between the multiply-adds of this one. A multiply-add takes one of two units of
// a core; loads, stores, comparisons and most of PReLU go through others, which idle beside a product, but only where
// they stand a few instructions apart: a core does not look as far ahead as from the end of a product to its beginning.
// Include after rows.inl. `Panels` has, besides what rows.inl asks for:
//
//   NextStates, kUnits            states that become a panel's or a ring's, kChunk pixels in so many units
//   chunk_of                      the next chunk of them
//   unit                          one unit
//   slopes_of, kSlopeFloats       a term's slopes as units read them, so many floats a block
//   end_of                        of a stage: behind the last row, or pair of rows, that row y of its output reads
//   next_row                      of a stage: a row, or pair of rows, of a block's part of the ring
//   product                       c plus what a word of a panel and one of the weights give
//   kTile, store_tile             pixels of a tile, and what becomes of its sums
#include "kernels/assert.h"

namespace pnf::PNF_ISA {
namespace {

static_assert(kVecs == 1);

constexpr int kChunk = 14;  // pixels that are prepared at a time, those of one tile or two
// Beyond so many panels of weights, bands of several rows read them less often.
constexpr int kMostWeightPanels = 64;

// The product of a panel and, with `WithNext`, the units of `states` between its multiply-adds that are tile `Tile`'s share.
template <typename Panels, int NB, int Tile, bool WithNext>
PNF_INLINE void multiply_panel(const float* a, const float* weights, std::ptrdiff_t weights_stride,
                               typename Panels::NextStates states, Vec (&acc)[Panels::kTile][2]) {
  constexpr int kSteps = Panels::kStep / 2, kTiles = kChunk / Panels::kTile;
  constexpr int kMost = (Panels::kUnits + kTiles - 1) / kTiles, kFirst = Tile * kMost;
  constexpr int kUnits = Tile + 1 < kTiles ? kMost : Panels::kUnits - kFirst;
  static_assert(kUnits <= 2 * kSteps);
  constexpr int kPerStep = kUnits <= kSteps ? 1 : 2;
  const auto prepare = [&](int step, int unit) {
    if (WithNext && unit < kPerStep && step * kPerStep + unit < kUnits) {
      Panels::unit(states, kFirst + step * kPerStep + unit);
    }
  };
  if constexpr (NB == 1) {
#pragma GCC unroll 8
    for (int step = 0; step < kSteps; ++step) {
      // Two words are loaded at once: a load for each multiply-add is more than the core has.
      const Vec first = load(weights + 2 * step * kBlock), second = load(weights + (2 * step + 1) * kBlock);
      const Vec low = zip_low(first, second), high = zip_high(first, second);
#pragma GCC unroll 16
      for (int p = 0; p < Panels::kTile; ++p) {
        const Vec x = splat_two(a + p * Panels::kStep + 2 * step);
        acc[p][0] = Panels::product(x, low, acc[p][0]);
        acc[p][1] = Panels::product(x, high, acc[p][1]);
        if (p == 3) prepare(step, 0);
        if (p == 10) prepare(step, 1);
      }
    }
  } else {
#pragma GCC unroll 2
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 2
      for (int word = 0; word < 2; ++word) {
        const float* const at = weights + (2 * step + word) * kBlock;
        const Vec first = load(at), second = load(at + weights_stride);
#pragma GCC unroll 16
        for (int p = 0; p < Panels::kTile; ++p) {
          const Vec x = splat(a[p * Panels::kStep + 2 * step + word]);
          acc[p][0] = Panels::product(x, first, acc[p][0]);
          acc[p][1] = Panels::product(x, second, acc[p][1]);
          if (p == 6) prepare(step, word);
        }
      }
    }
  }
}

template <typename Panels, int NB, int Tile, typename State>
PNF_INLINE void multiply_tile(const Run* runs, int n_runs, const TileOutOf<State>& out, int chunk,
                              const typename Panels::NextStates* next, int n_next) {
  constexpr int P = Panels::kTile;
  const int pixel = chunk * kChunk + Tile * P;
  Vec acc[P][2];
  if constexpr (NB == 1) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) acc[p][0] = acc[p][1] = splat(0.0f);
  } else {
    start_tile<P, 2>(out, pixel, acc);
  }
  const typename Panels::NextStates* const end = next + n_next;
  for (int r = 0; r < n_runs; ++r) {
    const float* a = runs[r].a + pixel * Panels::kStep;
    const float* weights = runs[r].weights;
    for (int panel = 0; panel < runs[r].panels; ++panel) {
      if (next != end) {
        multiply_panel<Panels, NB, Tile, true>(a, weights, runs[r].weights_stride, Panels::chunk_of(*next++, chunk),
                                               acc);
      } else {
        multiply_panel<Panels, NB, Tile, false>(a, weights, runs[r].weights_stride, {}, acc);
      }
      a += runs[r].panel_stride;
      weights += kPanelWords<State>;
    }
  }
  if constexpr (NB == 1) {
    Vec sum[P][1];
    finish_zipped(out, pixel, acc, sum);
    Panels::template store_tile<P, 1>(out, pixel, sum);
  } else {
    Panels::template store_tile<P, 2>(out, pixel, acc);
  }
}

// A row of NB blocks of outputs; one of `next` is prepared beside each panel, from the first on.
template <typename Panels, int NB, typename State>
__attribute__((noinline)) void multiply_row(const Run* runs, int n_runs, const TileOutOf<State>& out, int chunks,
                                            const typename Panels::NextStates* next, int n_next) {
  for (int chunk = 0; chunk < chunks; ++chunk) {
    multiply_tile<Panels, NB, 0>(runs, n_runs, out, chunk, next, n_next);
    if constexpr (Panels::kTile < kChunk) {
      multiply_tile<Panels, NB, 1>(runs, n_runs, out, chunk, next, n_next);
    }
  }
}

// Whether the next row of a term can be prepared so: states as they lie, without upper bounds.
template <typename State>
PNF_INLINE bool can_be_prepared(const TermOf<State>& term) {
  return term.stride == 1 && term.cap == nullptr &&
         (term.kind == TermKind::kPointwise || term.kind == TermKind::kDepthwise);
}

template <typename State>
bool is_interleaved(const NodeOf<State>& node) {
  if (node.width % kChunk != 0) return false;
  int panels = 0;
  bool prepared = false;
  for (int t = 0; t < node.terms; ++t) {
    const TermOf<State>& term = node.term[t];
    if (!is_convolution(term)) continue;
    if (term.out_blocks != node.blocks || term.kind == TermKind::kPooledPointwise ||
        term.kind == TermKind::kDepthwisePooled) {
      return false;
    }
    panels += term.blocks;
    prepared = prepared || can_be_prepared(term);
  }
  return prepared && panels * node.blocks <= kMostWeightPanels;
}

// One convolution of a node: its panels, a row of each, or two that take turns where the next is prepared beside this one.
template <typename Panels, typename State>
struct InterleavedTerm {
  const TermOf<State>* term;
  typename Panels::Stage stage;
  float* panels;
  std::ptrdiff_t panel;
  const float* slopes;
  bool prepared;

  float* row_of(int y) const {
    return panels + (term->kind == TermKind::kPointwise && prepared ? y % 2 * term->blocks * panel : 0);
  }
  void activate(int y, int width) const {
    for (int block = 0; block < term->blocks; ++block) {
      Panels::activate(pointwise_row(*term, block, y), term->stride, width, activation_of(*term, block),
                       row_of(y) + block * panel);
    }
  }
  // Adds what row y reads beyond what is there, at most one for each block; the end of them.
  typename Panels::NextStates* prepare(int y, typename Panels::NextStates* next) {
    if (!prepared) return next;
    if (term->kind == TermKind::kDepthwise) {
      if (stage.next >= Panels::end_of(stage, y)) return next;
      for (int block = 0; block < term->blocks; ++block) {
        *next++ = Panels::next_row(stage, block, stage.next, slopes + block * Panels::kSlopeFloats);
      }
      ++stage.next;
      return next;
    }
    for (int block = 0; block < term->blocks; ++block) {
      *next++ = {pointwise_row(*term, block, y), slopes + block * Panels::kSlopeFloats, row_of(y) + block * panel};
    }
    return next;
  }
};

template <typename Panels, typename State>
void node_rows_interleaved(const NodeOf<State>& node, int row_begin, int row_end, float* scratch) {
  PNF_ASSERT(node.terms >= 0 && node.terms <= kMaxTerms);
  if (row_begin == row_end) return;
  using Convolution = InterleavedTerm<Panels, State>;
  Convolution convolutions[kMaxTerms];
  DepthwiseStage<State> alone[kMaxTerms];
  int count = 0;
  for (int t = 0; t < node.terms; ++t) {
    const TermOf<State>& term = node.term[t];
    if (term.kind == TermKind::kDepthwiseAlone) {
      alone[t] = begin_depthwise(term, row_begin, scratch);
      scratch += ring_floats(term);
    }
    if (!is_convolution(term)) continue;
    Convolution& convolution = convolutions[count++];
    convolution.term = &term;
    convolution.panel = static_cast<std::ptrdiff_t>(node.width) * Panels::kStep;
    convolution.prepared = can_be_prepared(term);
    convolution.panels = scratch;
    scratch += (term.kind == TermKind::kPointwise ? 2 : 1) * term.blocks * convolution.panel;
    convolution.slopes = Panels::slopes_of(term, scratch);
    if (term.kind == TermKind::kDepthwise) {
      convolution.stage = Panels::begin(term, row_begin, scratch);
      scratch += Panels::stage_floats(term);
    } else if (convolution.prepared) {
      convolution.activate(row_begin, node.width);
    }
  }

  for (int y = row_begin; y < row_end; ++y) {
    Run runs[kMaxTerms];
    typename Panels::NextStates next[kMostWeightPanels];
    typename Panels::NextStates* end = next;
    for (int i = 0; i < count; ++i) {
      Convolution& convolution = convolutions[i];
      const TermOf<State>& term = *convolution.term;
      if (term.kind == TermKind::kDepthwise) {
        Panels::output_row(convolution.stage, y, node.width, {convolution.panels, convolution.panel}, 0);
      } else if (!convolution.prepared) {
        convolution.activate(y, node.width);
      }
      if (y + 1 < row_end) end = convolution.prepare(y + 1, end);
      const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(term.blocks) * kPanelWords<State>;
      runs[i] = {convolution.row_of(y), convolution.panel, term.pointwise, per_block, term.blocks};
    }
    const Addends<State> addends = sum_addends(node, alone, y, 1, scratch);
    for (int block = 0; block < node.blocks;) {
      const int here = node.blocks - block < 2 ? 1 : 2;
      const TileOutOf<State> out = tile_out(node, addends, block, y);
      const auto multiply = here == 1 ? multiply_row<Panels, 1, State> : multiply_row<Panels, 2, State>;
      // The first outputs' product has as many panels as there is to prepare.
      multiply(runs, count, out, node.width / kChunk, next, block == 0 ? static_cast<int>(end - next) : 0);
      for (int i = 0; i < count; ++i) runs[i].weights += here * runs[i].weights_stride;
      block += here;
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
