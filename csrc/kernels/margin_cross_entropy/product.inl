// out[r][0..kTile) (+)= sum over panels and k of a[r][panel, k] * b[panel][k][0..kTile), where a and b are words of what
// multiply_add multiplies. Include after floats.inl or pairs.inl.

namespace pnf::PNF_ISA {
namespace {

struct Product {
  const float* a;  // element (row, panel, k) at a + row * row_stride + panel * panel_stride + k * depth_stride
  std::ptrdiff_t row_stride, depth_stride, panel_stride;
  const float* b;  // [panels][depth][kTile]
  int panels, depth;
  float* out;  // row r at out + r * out_stride
  std::ptrdiff_t out_stride;
  bool accumulate;
};

template <int P>
PNF_INLINE void product_tile(const Product& args, int row) {
  Vec acc[P][kTileVecs];
  float* out = args.out + row * args.out_stride;
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) acc[p][v] = splat(0.0f);
  }
  if (args.accumulate) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kTileVecs; ++v) acc[p][v] = load(out + p * args.out_stride + v * kLanes);
    }
  }
  const float* b = args.b;
  for (int panel = 0; panel < args.panels; ++panel) {
    const float* a = args.a + row * args.row_stride + panel * args.panel_stride;
#pragma GCC unroll 4
    for (int k = 0; k < args.depth; ++k) {
      Vec w[kTileVecs];
#pragma GCC unroll 16
      for (int v = 0; v < kTileVecs; ++v) w[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const Vec x = splat(a[p * args.row_stride]);
#pragma GCC unroll 16
        for (int v = 0; v < kTileVecs; ++v) acc[p][v] = multiply_add(x, w[v], acc[p][v]);
      }
      a += args.depth_stride;
      b += kTile;
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) store(out + p * args.out_stride + v * kLanes, acc[p][v]);
  }
}

template <int P>
void product_tile_of(int size, const Product& args, int row) {
  if constexpr (P > 1) {
    if (size < P) return product_tile_of<P - 1>(size, args, row);
  }
  product_tile<P>(args, row);
}

PNF_INLINE int tiles_of(int rows) { return (rows + kTilePixels - 1) / kTilePixels; }

// Memory that is brought near, a few lines after every tile, while products keep the processor busy: rows of the kernel
// or of its gradient lie pages apart, and waiting for each would take a sixth of the time.
class Prefetch {
 public:
  Prefetch(const void* at, std::ptrdiff_t bytes, std::ptrdiff_t stride, int rows, int turns)
      : at_(static_cast<const char*>(at)),
        stride_(stride),
        lines_(static_cast<int>(bytes / kLine) + 1),
        rows_(bytes > 0 ? rows : 0),
        each_(rows_ * lines_ / turns + 1) {}

  void step() {
    for (int i = 0; i < each_ && rows_ > 0; ++i) {
      __builtin_prefetch(at_ + static_cast<std::ptrdiff_t>(line_) * kLine, 0, 2);
      if (++line_ < lines_) continue;
      line_ = 0;
      at_ += stride_;
      --rows_;
    }
  }

 private:
  static constexpr std::ptrdiff_t kLine = 64;
  const char* at_;
  std::ptrdiff_t stride_;
  int lines_, rows_, each_, line_ = 0;
};

// Tiles differ by one row at most, so that none is left nearly empty.
void product(const Product& args, int rows, Prefetch& prefetch) {
  const int tiles = tiles_of(rows);
  const int size = rows / tiles, larger = rows % tiles;
  int row = 0;
  for (int t = 0; t < tiles; ++t) {
    const int here = size + (t < larger ? 1 : 0);
    product_tile_of<kTilePixels>(here, args, row);
    prefetch.step();
    row += here;
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
