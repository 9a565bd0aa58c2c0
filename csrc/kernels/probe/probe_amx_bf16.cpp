#include "kernels/probe/probe.h"
#include "kernels/simd/amx_bf16.h"

namespace pnf::amx_bf16 {

double probe_fma(long iterations, float* sink) {
  constexpr int kSums = 4, kWords = kTileBytes / static_cast<int>(sizeof(float));
  TileShapes shapes;
  for (int tile = 0; tile < kSums + 2; ++tile) {
    shapes.row_bytes[tile] = kTileBytes;
    shapes.rows[tile] = kTileRows;
  }
  tile_configure(shapes);
  for (long n = 0; n < iterations; ++n) {
    tile_dot<0, 4, 5>();
    tile_dot<1, 4, 5>();
    tile_dot<2, 4, 5>();
    tile_dot<3, 4, 5>();
  }
  alignas(64) float sums[kTileRows * kWords];
  tile_store<0>(sums, kTileBytes);
  store(sink, load(sums));
  tile_release();
  return static_cast<double>(iterations) * kSums * kTileRows * kWords * kWords * 2;
}

}  // namespace pnf::amx_bf16
