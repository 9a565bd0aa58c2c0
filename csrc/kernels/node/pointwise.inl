// The pointwise product: a register tile of pixels x output channels, summed over panels of 16 input channels.
namespace pnf::PNF_ISA {
namespace {

constexpr int kVecs = kBlock / kLanes;

// `panels` panels of activations, [pixels][16] each, `panel_stride` floats apart, and their weights [panels][16][16].
struct Run {
  const float* a;
  std::ptrdiff_t panel_stride;
  const float* weights;
  std::ptrdiff_t weights_stride;  // from one output block to the next
  int panels;
};

// A panel's weights in words, by the type of the states.
template <typename State>
constexpr int kPanelWords = kBlock * kBlock / (sizeof(float) / sizeof(State));

template <typename State>
PNF_INLINE Vec panel_weight(const float* weights, int k, int lane) {
  if constexpr (sizeof(State) == sizeof(float)) {
    return load(weights + k * kBlock + lane);
  } else {
    const Vec pairs = load(weights + k / 2 * kBlock + lane);
    return k % 2 == 0 ? low_half(pairs) : high_half(pairs);
  }
}

template <typename State>
struct TileOutOf {
  const float* bias;    // [blocks][16]
  const float* addend;  // null, or [blocks][pixels][16] with `addend_stride` floats between blocks
  std::ptrdiff_t addend_stride;
  const State* identity;  // the same of a state
  std::ptrdiff_t identity_stride;
  State* output;
  std::ptrdiff_t output_stride;  // between blocks
};
using TileOut = TileOutOf<float>;

template <int P, int NB, typename Element>
PNF_INLINE void add_to_tile(const Element* in, std::ptrdiff_t stride, Vec (&acc)[P][NB * kVecs]) {
#pragma GCC unroll 2
  for (int b = 0; b < NB; ++b) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        acc[p][b * kVecs + v] = add(acc[p][b * kVecs + v], load(in + b * stride + p * kBlock + v * kLanes));
      }
    }
  }
}

template <int P, int NB, typename State>
PNF_INLINE void add_addends(const TileOutOf<State>& out, int pixel, Vec (&acc)[P][NB * kVecs]) {
  if (out.addend != nullptr) add_to_tile<P, NB>(out.addend + pixel * kBlock, out.addend_stride, acc);
  if (out.identity != nullptr) add_to_tile<P, NB>(out.identity + pixel * kBlock, out.identity_stride, acc);
}

template <int P, int NB, typename State>
PNF_INLINE void start_tile(const TileOutOf<State>& out, int pixel, Vec (&acc)[P][NB * kVecs]) {
#pragma GCC unroll 2
  for (int b = 0; b < NB; ++b) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      const Vec bias = load(out.bias + b * kBlock + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) acc[p][b * kVecs + v] = bias;
    }
  }
  add_addends<P, NB>(out, pixel, acc);
}

template <int P, int NB, typename State>
PNF_INLINE void store_tile(const TileOutOf<State>& out, int pixel, const Vec (&acc)[P][NB * kVecs]) {
#pragma GCC unroll 2
  for (int b = 0; b < NB; ++b) {
    State* output = out.output + b * out.output_stride + pixel * kBlock;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) store(output + p * kBlock + v * kLanes, acc[p][b * kVecs + v]);
    }
  }
}

template <int P, int NB, typename State>
PNF_INLINE void pointwise_tile(const Run* runs, int n_runs, const TileOutOf<State>& out, int pixel) {
  Vec acc[P][NB * kVecs];
  start_tile<P, NB>(out, pixel, acc);
  for (int r = 0; r < n_runs; ++r) {
    const Run& run = runs[r];
    const float* weights = run.weights;
    for (int panel = 0; panel < run.panels; ++panel) {
      const float* a = run.a + panel * run.panel_stride + pixel * kBlock;
#pragma GCC unroll kTileUnroll
      for (int k = 0; k < kBlock; ++k) {
        Vec w[NB * kVecs];
#pragma GCC unroll 2
        for (int b = 0; b < NB; ++b) {
#pragma GCC unroll 16
          for (int v = 0; v < kVecs; ++v) {
            w[b * kVecs + v] = panel_weight<State>(weights + b * run.weights_stride, k, v * kLanes);
          }
        }
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          const Vec x = splat(a[p * kBlock + k]);
#pragma GCC unroll 32
          for (int v = 0; v < NB * kVecs; ++v) acc[p][v] = fma(x, w[v], acc[p][v]);
        }
      }
      weights += kPanelWords<State>;
    }
  }
  store_tile<P, NB>(out, pixel, acc);
}

#ifdef PNF_INTERLEAVES
// A tile of one block from sums of even and of odd channels.
template <int P, typename State>
PNF_INLINE void finish_zipped(const TileOutOf<State>& out, int pixel, const Vec (&zipped)[P][2], Vec (&sum)[P][1]) {
  const Vec bias = load(out.bias);
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) sum[p][0] = add(bias, add_zipped(zipped[p][0], zipped[p][1]));
  add_addends<P, 1>(out, pixel, sum);
}

// One block of outputs by two input channels at a time: what is loaded then serves two multiply-adds, as with two blocks,
// where a load for each would be more than a core has.
template <int P, typename State>
PNF_INLINE void pointwise_tile_zipped(const Run* runs, int n_runs, const TileOutOf<State>& out, int pixel) {
  static_assert(kVecs == 1);
  Vec acc[P][2];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) acc[p][0] = acc[p][1] = splat(0.0f);
  for (int r = 0; r < n_runs; ++r) {
    const Run& run = runs[r];
    const float* weights = run.weights;
    for (int panel = 0; panel < run.panels; ++panel) {
      const float* a = run.a + panel * run.panel_stride + pixel * kBlock;
#pragma GCC unroll 2
      for (int k = 0; k < kBlock; k += 2) {
        const Vec first = panel_weight<State>(weights, k, 0), second = panel_weight<State>(weights, k + 1, 0);
        const Vec low = zip_low(first, second), high = zip_high(first, second);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          const Vec x = splat_two(a + p * kBlock + k);
          acc[p][0] = fma(x, low, acc[p][0]);
          acc[p][1] = fma(x, high, acc[p][1]);
        }
      }
      weights += kPanelWords<State>;
    }
  }
  Vec sum[P][1];
  finish_zipped(out, pixel, acc, sum);
  store_tile<P, 1>(out, pixel, sum);
}
#endif

template <int NB, int P, typename State>
void pointwise_tile_of(int size, const Run* runs, int n_runs, const TileOutOf<State>& out, int pixel) {
  if constexpr (P > 1) {
    if (size < P) return pointwise_tile_of<NB, P - 1>(size, runs, n_runs, out, pixel);
  }
#ifdef PNF_INTERLEAVES
  if constexpr (NB == 1) {
    pointwise_tile_zipped<P>(runs, n_runs, out, pixel);
    return;
  }
#endif
  pointwise_tile<P, NB>(runs, n_runs, out, pixel);
}

PNF_INLINE int tiles_of(int pixels) { return (pixels + kTilePixels - 1) / kTilePixels; }

// All pixels of NB output blocks. Tiles differ by one pixel at most, so that none is left nearly empty. Calls
// before_tile() in front of each.
template <int NB, typename State, typename BeforeTile>
void pointwise_pixels(const Run* runs, int n_runs, const TileOutOf<State>& out, int pixels, BeforeTile before_tile) {
  const int tiles = tiles_of(pixels);
  const int size = pixels / tiles, larger = pixels % tiles;
  int pixel = 0;
  for (int t = 0; t < tiles; ++t) {
    const int here = size + (t < larger ? 1 : 0);
    before_tile();
    pointwise_tile_of<NB, kTilePixels>(here, runs, n_runs, out, pixel);
    pixel += here;
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
