// Products of pairs of Bf16 in vectors: panels have 8 words a pixel. Include after pointwise.inl.
namespace pnf::PNF_ISA {
namespace {

static_assert(kLanes == kBlock);

template <int P, int NB>
PNF_INLINE void store_halves_tile(const TileOutOf<Bf16>& out, int pixel, const Vec (&acc)[P][NB]) {
#pragma GCC unroll 2
  for (int b = 0; b < NB; ++b) {
    Bf16* output = out.output + b * out.output_stride + pixel * kBlock;
#pragma GCC unroll 8
    for (int p = 0; p + 2 <= P; p += 2) store_two(output + p * kBlock, round_two(acc[p][b], acc[p + 1][b]));
    if constexpr (P % 2 != 0) store(output + (P - 1) * kBlock, acc[P - 1][b]);
  }
}

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
  store_halves_tile<P, NB>(out, pixel, acc);
}

template <int NB, int P>
void dot_tile_of(int size, const Run* runs, int n_runs, const TileOutOf<Bf16>& out, int pixel) {
  if constexpr (P > 1) {
    if (size < P) return dot_tile_of<NB, P - 1>(size, runs, n_runs, out, pixel);
  }
  dot_tile<P, NB>(runs, n_runs, out, pixel);
}

struct Dots {
  // 32 channels of a pixel are in two panels, one behind the other.
  static Run run(const float* panels, int pixels, const float* weights, std::ptrdiff_t weights_stride) {
    return {panels, static_cast<std::ptrdiff_t>(pixels) * kBlock / 2, weights, weights_stride, 2};
  }
  static void put(float* panels, int pixels, int pixel, Two channels) {
    float* const first = panels + pixel * kBlock / 2;
    store_each(reinterpret_cast<Bf16*>(first), reinterpret_cast<Bf16*>(first + pixels * kBlock / 2), channels);
  }

  // All pixels of NB blocks of outputs, in tiles that differ by one pixel at most.
  template <int NB>
  static void multiply(const Run* runs, int n_runs, const TileOutOf<Bf16>& out, int pixels) {
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
}  // namespace pnf::PNF_ISA
