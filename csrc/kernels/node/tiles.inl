// Products of pairs of Bf16 in tile registers: panels, two at a time, have 16 words a pixel. Include after pointwise.inl and
// simd/amx_bf16.h.
#include "kernels/assert.h"

namespace pnf::PNF_ISA {
namespace {

static_assert(kLanes == kBlock);

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
    PNF_ASSERT(pixels > 0 && pixels <= kTileRows);
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) {
      shapes.row_bytes[tile] = kTileBytes;
      shapes.rows[tile] = static_cast<unsigned char>(tile < 6 ? pixels : kTileRows);
    }
    tile_configure(shapes);
    pixels_ = pixels;
  }

  // About so many cycles have gone by without a product. The unit of products falls asleep after a thousand, and takes 750 to
  // wake up (Emerald Rapids, measured), so that one in between, of whatever lies in the tiles, keeps it awake.
  void worked(int cycles) {
    idle_ += cycles;
    if (idle_ < kMostIdle) return;
    tile_dot<0, 4, 6>();
    idle_ = 0;
  }
  void multiplied() { idle_ = 0; }

 private:
  static constexpr int kMostIdle = 650;
  int pixels_ = 0, idle_ = 0;
};

constexpr int kSumTiles = 4;
constexpr int kTileWords = kTileBytes / static_cast<int>(sizeof(float));

// The sums of NB blocks of outputs for N tiles of pixels, the i-th from pixel first[i] on, as [N][NB] tiles.
template <int NB, int N>
PNF_INLINE void sum_tiles(const Run* runs, int n_runs, const float* bias, const int* first,
                          float (*sums)[kTileRows * kBlock]) {
  static_assert(NB * N <= kSumTiles && NB <= 2);
  tile_load<0>(bias, 0);
  if constexpr (NB * N > 1) tile_load<1>(bias + (NB == 2 ? kBlock : 0), 0);
  if constexpr (NB * N > 2) tile_load<2>(bias, 0);
  if constexpr (NB * N > 3) tile_load<3>(bias + (NB == 2 ? kBlock : 0), 0);
  for (int r = 0; r < n_runs; ++r) {
    const float* a = runs[r].a;
    const float* weights = runs[r].weights;
    for (int pair = 0; pair < runs[r].panels; ++pair) {
      tile_load<6>(weights, kTileBytes);
      tile_load<4>(a + first[0] * kTileWords, kTileBytes);
      tile_dot<0, 4, 6>();
      if constexpr (NB == 2) {
        tile_load<7>(weights + runs[r].weights_stride, kTileBytes);
        tile_dot<1, 4, 7>();
      }
      if constexpr (N > 1) {
        tile_load<5>(a + first[1] * kTileWords, kTileBytes);
        tile_dot<NB, 5, 6>();
        if constexpr (NB == 2) tile_dot<3, 5, 7>();
      }
      if constexpr (N > 2) {
        tile_load<4>(a + first[2] * kTileWords, kTileBytes);
        tile_dot<2, 4, 6>();
      }
      if constexpr (N > 3) {
        tile_load<5>(a + first[3] * kTileWords, kTileBytes);
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

// One tile of sums, and what is added to it, to half precision.
PNF_INLINE void store_sums(const float* sums, const float* addend, const Bf16* identity, int pixels, Bf16* out) {
  const auto sum = [=](int p) {
    Vec value = load(sums + p * kBlock);
    if (addend != nullptr) value = add(value, load(addend + p * kBlock));
    return identity == nullptr ? value : add(value, load(identity + p * kBlock));
  };
  int p = 0;
  for (; p + 2 <= pixels; p += 2) store_two(out + p * kBlock, round_two(sum(p), sum(p + 1)));
  if (p < pixels) store(out + p * kBlock, sum(p));
}

class TileProduct {
 public:
  // 32 channels of a pixel lie side by side.
  static Run run(const float* panels, int, const float* weights, std::ptrdiff_t weights_stride) {
    return {panels, 0, weights, weights_stride, 1};
  }
  static void put(float* panels, int, int pixel, Two channels) {
    store_two(reinterpret_cast<Bf16*>(panels + pixel * kTileWords), channels);
  }

  // The last tile ends with the pixels, where it may meet the one before.
  template <int NB>
  void multiply(const Run* runs, int n_runs, const TileOutOf<Bf16>& out, int pixels) {
    constexpr int kTogether = kSumTiles / NB;
    const int tiles = tiles_of(pixels), size = (pixels + tiles - 1) / tiles;
    tiles_.configure(size);
    for (int tile = 0; tile < tiles; tile += kTogether) {
      const int here = tiles - tile < kTogether ? tiles - tile : kTogether;
      int first[kTogether];
      PNF_ASSERT(here <= kTogether);
      for (int i = 0; i < here; ++i) {
        const int pixel = (tile + i) * size;
        first[i] = pixel + size > pixels ? pixels - size : pixel;
      }
      alignas(64) float sums[kSumTiles][kTileRows * kBlock];
      sum_tiles_of<NB, kTogether>(here, runs, n_runs, out.bias, first, sums);
      for (int i = 0; i < here; ++i) {
        for (int b = 0; b < NB; ++b) {
          const std::ptrdiff_t pixel = first[i] * kBlock;
          store_sums(sums[i * NB + b], out.addend == nullptr ? nullptr : out.addend + b * out.addend_stride + pixel,
                     out.identity == nullptr ? nullptr : out.identity + b * out.identity_stride + pixel, size,
                     out.output + b * out.output_stride + pixel);
        }
      }
    }
    tiles_.multiplied();
  }

  // Most products will be of so many pixels.
  void expect(int pixels) { tiles_.configure((pixels + tiles_of(pixels) - 1) / tiles_of(pixels)); }
  void worked(int cycles) { tiles_.worked(cycles); }

 private:
  // As few as there can be, of equal size.
  static int tiles_of(int pixels) { return (pixels + kTileRows - 1) / kTileRows; }

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
}  // namespace pnf::PNF_ISA
