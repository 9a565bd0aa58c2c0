// The node kernel of half precision with its product on tile registers. Include after simd/amx_bf16.h, with PNF_ISA naming
// its namespace.
//
// A tile of inputs has up to 16 pixels of 32 channels, so panels lie side by side in pairs: the blocks of a term, and the
// last of an odd number beside that of another term (the two edges of a node of 16 channels), whose weights are brought
// together for that.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/pool.inl"
#include "kernels/node/scratch.h"
#include "kernels/node/rows.inl"
#include "kernels/node/pairs.inl"
// clang-format on

namespace pnf::PNF_ISA {
namespace {

struct PanelsSideBySide {
  static constexpr int kStep = kBlock;
  static constexpr int kHalf = kBlock / 2;
  static constexpr int kMixedWeights = 2 * kPanelWords<Bf16>;  // of a block of outputs

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
      run[count++] = {place[t].pairs, place[t].pair, term.pointwise + (block - term.first_out) * per_block, per_block,
                      term.blocks / 2};
    }
    for (int i = 0; i < n_mixed_; ++i) {
      const Mixed& mixed = mixed_[i];
      if (block < mixed.first_out || block >= mixed.first_out + mixed.out_blocks) continue;
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

  Mixed mixed_[kMaxTerms];
  int n_mixed_ = 0;
};

// Tiles 0 to 3 hold sums, 4 and 5 inputs, 6 and 7 weights. Nothing stays in them when this goes.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() {
    if (pixels_ != 0) tile_release();
  }

  void configure(int pixels) {
    if (pixels == pixels_) return;
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) {
      shapes.row_bytes[tile] = kTileBytes;
      shapes.rows[tile] = static_cast<unsigned char>(tile < 6 ? pixels : kTileRows);
    }
    tile_configure(shapes);
    pixels_ = pixels;
  }

 private:
  int pixels_ = 0;
};

constexpr int kSumTiles = 4;

// The sums of NB blocks of outputs for N tiles of pixels, the i-th from pixel first[i] on, as [N][NB] tiles.
template <int NB, int N>
PNF_INLINE void sum_tiles(const Run* runs, int n_runs, const float* bias, const int* first,
                          float (*sums)[kTileRows * kBlock]) {
  static_assert(NB * N <= kSumTiles && NB <= 2);
  constexpr int kStep = PanelsSideBySide::kStep;
  tile_load<0>(bias, 0);
  if constexpr (NB * N > 1) tile_load<1>(bias + (NB == 2 ? kBlock : 0), 0);
  if constexpr (NB * N > 2) tile_load<2>(bias, 0);
  if constexpr (NB * N > 3) tile_load<3>(bias + (NB == 2 ? kBlock : 0), 0);
  for (int r = 0; r < n_runs; ++r) {
    const float* a = runs[r].a;
    const float* weights = runs[r].weights;
    for (int pair = 0; pair < runs[r].panels; ++pair) {
      tile_load<6>(weights, kTileBytes);
      tile_load<4>(a + first[0] * kStep, kTileBytes);
      tile_dot<0, 4, 6>();
      if constexpr (NB == 2) {
        tile_load<7>(weights + runs[r].weights_stride, kTileBytes);
        tile_dot<1, 4, 7>();
      }
      if constexpr (N > 1) {
        tile_load<5>(a + first[1] * kStep, kTileBytes);
        tile_dot<NB, 5, 6>();
        if constexpr (NB == 2) tile_dot<3, 5, 7>();
      }
      if constexpr (N > 2) {
        tile_load<4>(a + first[2] * kStep, kTileBytes);
        tile_dot<2, 4, 6>();
      }
      if constexpr (N > 3) {
        tile_load<5>(a + first[3] * kStep, kTileBytes);
        tile_dot<3, 5, 6>();
      }
      a += runs[r].panel_stride;
      weights += 2 * kPanelWords<Bf16>;
    }
  }
  tile_store<0>(sums[0], kTileBytes);
  if constexpr (NB * N > 1) tile_store<1>(sums[1], kTileBytes);
  if constexpr (NB * N > 2) tile_store<2>(sums[2], kTileBytes);
  if constexpr (NB * N > 3) tile_store<3>(sums[3], kTileBytes);
}

// One tile of sums, and the addend if there is one, to half precision.
PNF_INLINE void store_sums(const float* sums, const float* addend, int pixels, Bf16* out) {
  const auto sum = [=](int p) {
    const Vec value = load(sums + p * kBlock);
    return addend == nullptr ? value : add(value, load(addend + p * kBlock));
  };
  int p = 0;
  for (; p + 2 <= pixels; p += 2) store_two(out + p * kBlock, round_two(sum(p), sum(p + 1)));
  if (p < pixels) store(out + p * kBlock, sum(p));
}

struct TilePanels : PairPanels<PanelsSideBySide> {
  // Tiles of equal size, as few as there can be; the last one ends with the pixels, where it may meet the one before.
  template <int NB>
  void multiply(const Run* runs, int n_runs, const TileOutOf<Bf16>& out, int pixels) {
    constexpr int kTogether = kSumTiles / NB;
    const int tiles = (pixels + kTileRows - 1) / kTileRows, size = (pixels + tiles - 1) / tiles;
    tiles_.configure(size);
    for (int tile = 0; tile < tiles; tile += kTogether) {
      const int here = tiles - tile < kTogether ? tiles - tile : kTogether;
      int first[kTogether];
      for (int i = 0; i < here; ++i) {
        const int pixel = (tile + i) * size;
        first[i] = pixel + size > pixels ? pixels - size : pixel;
      }
      alignas(64) float sums[kSumTiles][kTileRows * kBlock];
      sum_tiles_of<NB, kTogether>(here, runs, n_runs, out.bias, first, sums);
      for (int i = 0; i < here; ++i) {
        for (int b = 0; b < NB; ++b) {
          const float* addend =
              out.addend == nullptr ? nullptr : out.addend + b * out.addend_stride + first[i] * kBlock;
          store_sums(sums[i * NB + b], addend, size, out.output + b * out.output_stride + first[i] * kBlock);
        }
      }
    }
  }

 private:
  template <int NB, int N>
  static void sum_tiles_of(int count, const Run* runs, int n_runs, const float* bias, const int* first,
                           float (*sums)[kTileRows * kBlock]) {
    if constexpr (N > 1) {
      if (count < N) return sum_tiles_of<NB, N - 1>(count, runs, n_runs, bias, first, sums);
    }
    sum_tiles<NB, N>(runs, n_runs, bias, first, sums);
  }

  Tiles tiles_;
};

}  // namespace

void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch) {
  node_rows_with<TilePanels>(node, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
