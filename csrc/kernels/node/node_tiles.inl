// The node kernel of half precision with its product on tile registers. Include after simd/amx_bf16.h, with PNF_ISA naming
// its namespace.
//
// A tile of inputs has up to 16 pixels of 32 channels, so panels lie side by side in pairs: the blocks of a term, and the
// last of an odd number beside that of another term (the two edges of a node of 16 channels), whose weights are brought
// together for that.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/activation.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/depthwise_stage.inl"
#include "kernels/node/pool.inl"
#include "kernels/node/rows.inl"
#include "kernels/node/half_panels.inl"
#include "kernels/node/tiles.inl"
// clang-format on

namespace pnf::PNF_ISA {
namespace {

struct PanelsSideBySide {
  static constexpr int kStep = kTileWords;
  static constexpr int kHalf = kBlock / 2;
  static constexpr int kMixedWeights = 2 * kPanelWords<Bf16>;  // of a block of outputs
  static constexpr int kMostMixed = kMaxTerms;                 // where no two terms can share one
  static constexpr int kMostRuns = kMaxTerms + kMostMixed;     // one of each term's pairs, one of each two last panels

  struct Place {
    float* pairs;  // [blocks / 2][pixels][2][kHalf]
    std::ptrdiff_t pair;
    int in_pairs;
    float* last;  // [pixels] kStep apart
    float* at(int block) const { return block < in_pairs ? pairs + block / 2 * pair + block % 2 * kHalf : last; }
  };
  Place place[kMaxTerms];

  float* arrange(const NodeOf<Bf16>& node, float* scratch) {
    const std::ptrdiff_t pair = static_cast<std::ptrdiff_t>(band_rows(node)) * node.width * kStep;
    for (int t = 0; t < node.terms; ++t) {
      const TermOf<Bf16>& term = node.term[t];
      if (!is_convolution(term)) continue;
      place[t] = {scratch, pair, term.blocks - term.blocks % 2, nullptr};
      scratch += term.blocks / 2 * pair;
      if (term.blocks % 2 == 0) continue;
      Mixed* mixed = find_open(term);
      if (mixed == nullptr) {
        PNF_ASSERT(n_mixed_ < kMostMixed);
        mixed = &mixed_[n_mixed_++];
        *mixed = {scratch, scratch + pair, term.first_out, term.out_blocks, true};
        place[t].last = mixed->panels;
        scratch += pair + term.out_blocks * kMixedWeights;
      } else {
        place[t].last = mixed->panels + kHalf;
        mixed->open = false;
      }
      copy_last_weights(term, mixed->weights + (mixed->open ? 0 : kMixedWeights / 2));
    }
    for (int i = 0; i < n_mixed_; ++i) {
      if (mixed_[i].open) close(mixed_[i], pair);
    }
    return scratch;
  }

  int runs(const NodeOf<Bf16>& node, int block, Run* run) const {
    int count = 0;
    for (int t = 0; t < node.terms; ++t) {
      const TermOf<Bf16>& term = node.term[t];
      if (!is_convolution(term) || !has_output(term, block) || term.blocks < 2) continue;
      const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(term.blocks) * kPanelWords<Bf16>;
      PNF_ASSERT(count < kMostRuns);
      run[count++] = {place[t].pairs, place[t].pair, term.pointwise + (block - term.first_out) * per_block, per_block,
                      term.blocks / 2};
    }
    for (int i = 0; i < n_mixed_; ++i) {
      const Mixed& mixed = mixed_[i];
      if (block < mixed.first_out || block >= mixed.first_out + mixed.out_blocks) continue;
      PNF_ASSERT(count < kMostRuns);
      run[count++] = {mixed.panels, 0, mixed.weights + (block - mixed.first_out) * kMixedWeights, kMixedWeights, 1};
    }
    return count;
  }

 private:
  // Two panels of terms of the same outputs, or one beside zeros. (Others must not meet: what a term does not read may
  // be infinite, and zero times that is no zero.)
  struct Mixed {
    float* panels;
    float* weights;  // [out_blocks][2][kHalf][16]
    int first_out, out_blocks;
    bool open;
  };

  Mixed* find_open(const TermOf<Bf16>& term) {
    for (int i = 0; i < n_mixed_; ++i) {
      Mixed& mixed = mixed_[i];
      if (mixed.open && mixed.first_out == term.first_out && mixed.out_blocks == term.out_blocks) return &mixed;
    }
    return nullptr;
  }

  static void copy_last_weights(const TermOf<Bf16>& term, float* out) {
    for (int o = 0; o < term.out_blocks; ++o) {
      const float* weights = term.pointwise + ((o + 1) * term.blocks - 1) * kPanelWords<Bf16>;
      for (int i = 0; i < kPanelWords<Bf16>; i += kLanes) store(out + o * kMixedWeights + i, load(weights + i));
    }
  }

  static void close(const Mixed& mixed, std::ptrdiff_t pair) {
    for (int o = 0; o < mixed.out_blocks; ++o) {
      clear(mixed.weights + o * kMixedWeights + kMixedWeights / 2, kMixedWeights / 2);
    }
    for (std::ptrdiff_t i = 0; i < pair; i += kStep) clear(mixed.panels + i, kStep);
  }

  Mixed mixed_[kMostMixed];
  int n_mixed_ = 0;
};

// Depthwise windows on floats: of the processors that have tiles, each takes a product of pairs in the time of four of
// floats, and permutes halves slowly.
struct TilePanels : HalfPanels<PanelsSideBySide>, TileProduct {
  using Stage = DepthwiseStage<Bf16, Bf16>;

  template <int Step>
  struct HalfRow {
    using Element = Bf16;
    template <int T>
    PNF_INLINE void put(Bf16* out, int pixel, int, const Vec (&values)[T]) {
      store_pixels<T, Step>(values, out + pixel * Step);
    }
  };

  float* arrange(const NodeOf<Bf16>& node, float* scratch) {
    // Beyond these, products in between cost more than to wake up once.
    constexpr int kMostBetween = 3300;
    expect(band_rows(node) * node.width);
    int between = 0;
    for (int t = 0; t < node.terms; ++t) {
      const TermOf<Bf16>& term = node.term[t];
      if (is_convolution(term)) between += band_rows(node) * term.blocks * cycles_of_row(term, node.width);
    }
    keeps_awake_ = between <= kMostBetween;
    return PanelsSideBySide::arrange(node, scratch);
  }

  static std::ptrdiff_t stage_floats(const TermOf<Bf16>& term) {
    return ring_floats(term) + (term.kind == TermKind::kDepthwisePooled ? filtered_floats(term) : 0);
  }
  static Stage begin(const TermOf<Bf16>& term, int row_begin, float* ring) {
    // What is pooled lies in rows of whole blocks first.
    const auto row = term.kind == TermKind::kDepthwisePooled
                         ? depthwise_row_of<HalfRow<kBlock>>(term.kernel, filter_stride(term))
                         : depthwise_row_of<HalfRow<kElements>>(term.kernel, filter_stride(term));
    return begin_depthwise(term, row, row_begin, ring);
  }
  void output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    depthwise_output_row(stage, y, out_width, [&](int block) {
      worked(cycles_of_row(*stage.term, out_width));
      return halves(place.at(block) + offset);
    });
  }
  void pooled_output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    const TermOf<Bf16>& term = *stage.term;
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term.width) * kBlock;
    Bf16* const filtered = halves(stage.ring + ring_floats(term));
    for (int r = 0; r < 2; ++r) {
      depthwise_output_row(stage, 2 * y + r, term.width, [&](int block) {
        worked(cycles_of_row(term, term.width));
        return filtered + (2 * block + r) * row;
      });
    }
    pool_filtered(filtered, term.blocks, row, out_width, place, offset);
  }
  // Compiled alone, its loop keeps more in registers.
  __attribute__((noinline)) void activate(const Bf16* in, int step, int pixels, const Activation& activation,
                                          float* out) {
    HalfPanels::activate(in, step, pixels, activation, out);
    worked(kActivation * pixels);
  }

 private:
  // Cycles of a pixel of a block, and of a row, as nodes of PocketNetS-128 take them on an Emerald Rapids core; a depthwise
  // row brings states into the ring, too.
  static constexpr int kActivation = 4;
  static int cycles_of_row(const TermOf<Bf16>& term, int width) {
    constexpr int kRing = 7;
    if (term.kind == TermKind::kPointwise || term.kind == TermKind::kPooledPointwise) return kActivation * width;
    return width * term.kernel * term.kernel / 2 + kRing * term.width * filter_stride(term);
  }
  void worked(int cycles) {
    if (keeps_awake_) TileProduct::worked(cycles);
  }

  bool keeps_awake_ = false;
};

}  // namespace

void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch) {
  node_rows_with<TilePanels>(node, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
