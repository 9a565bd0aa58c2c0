// The node kernel on states and weights of half precision, where a word's two products take one instruction. Include after
// a vocabulary from kernels/simd that has `dot`, with PNF_ISA naming its namespace.
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

template <int P, int NB>
PNF_INLINE void dot_tile(const Run* runs, int n_runs, const TileOutOf<Bf16>& out, int pixel) {
  constexpr int kWords = kBlock / 2;
  Vec acc[P][NB * kVecs];
  start_tile<P, NB>(out, pixel, acc);
  for (int r = 0; r < n_runs; ++r) {
    const Run& run = runs[r];
    const float* weights = run.weights;
    for (int panel = 0; panel < run.panels; ++panel) {
      const float* a = run.a + panel * run.panel_stride + pixel * kWords;
#pragma GCC unroll 4
      for (int k = 0; k < kWords; ++k) {
        Vec w[NB];
#pragma GCC unroll 2
        for (int b = 0; b < NB; ++b) w[b] = load(weights + b * run.weights_stride + k * kBlock);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
          for (int b = 0; b < NB; ++b) acc[p][b] = dot_word(a + p * kWords + k, w[b], acc[p][b]);
        }
      }
      weights += kPanelWords<Bf16>;
    }
  }
  store_tile<P, NB>(out, pixel, acc);
}

template <int NB, int P>
void dot_tile_of(int size, const Run* runs, int n_runs, const TileOutOf<Bf16>& out, int pixel) {
  if constexpr (P > 1) {
    if (size < P) return dot_tile_of<NB, P - 1>(size, runs, n_runs, out, pixel);
  }
  dot_tile<P, NB>(runs, n_runs, out, pixel);
}

struct DotPanels : PairPanels<PanelsInTurn<Bf16, kBlock / 2>> {
  template <int NB>
  void multiply(const Run* runs, int n_runs, const TileOutOf<Bf16>& out, int pixels) const {
    const int tiles = tiles_of(pixels);
    const int size = pixels / tiles, larger = pixels % tiles;
    int pixel = 0;
    for (int t = 0; t < tiles; ++t) {
      const int here = size + (t < larger ? 1 : 0);
      dot_tile_of<NB, kTilePixels>(here, runs, n_runs, out, pixel);
      pixel += here;
    }
  }
};

}  // namespace

void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch) {
  node_rows_with<DotPanels>(node, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
