// As avx512.h in this folder, for the tile registers; what their instructions may not be given ends the process.
#pragma once
#define PNF_AVX512 amx_bf16
#include "kernels/simd/avx512_bf16.h"

namespace pnf::amx_bf16 {

inline constexpr int kTileRows = 16, kTileBytes = 64;

struct alignas(64) TileShapes {
  unsigned char palette = 1, start_row = 0, reserved[14] = {};
  unsigned short row_bytes[16] = {};
  unsigned char rows[16] = {};
};

// The tile registers of a thread, in emulated_avx512.cpp.
struct TileFile {
  TileShapes shapes;
  float tile[8][kTileRows][kTileBytes / 4];
};
extern thread_local TileFile emulated_tiles;

PNF_INLINE void require(bool condition) {
  if (!condition) __builtin_trap();
}
PNF_INLINE int rows_of(int tile) {
  require(emulated_tiles.shapes.palette == 1 && emulated_tiles.shapes.rows[tile] > 0);
  return emulated_tiles.shapes.rows[tile];
}
PNF_INLINE int words_of(int tile) { return emulated_tiles.shapes.row_bytes[tile] / 4; }

PNF_INLINE void tile_release() {
  emulated_tiles = {};
  emulated_tiles.shapes.palette = 0;
}
PNF_INLINE void tile_configure(const TileShapes& shapes) {
  tile_release();
  for (int i = 0; i < 16; ++i) {
    require(shapes.rows[i] <= kTileRows && shapes.row_bytes[i] <= kTileBytes && (i < 8 || shapes.rows[i] == 0));
  }
  emulated_tiles.shapes = shapes;
}
// float* + bytes, as the instructions take it.
PNF_INLINE float* row_at(const float* rows, std::ptrdiff_t stride, int row) {
  return reinterpret_cast<float*>(reinterpret_cast<std::intptr_t>(rows) + row * stride);
}
template <int Tile>
PNF_INLINE void tile_load(const float* rows, std::ptrdiff_t stride) {
  for (int i = 0; i < rows_of(Tile); ++i) {
    for (int n = 0; n < words_of(Tile); ++n) emulated_tiles.tile[Tile][i][n] = row_at(rows, stride, i)[n];
  }
}
template <int Tile>
PNF_INLINE void tile_store(float* rows, std::ptrdiff_t stride) {
  for (int i = 0; i < rows_of(Tile); ++i) {
    for (int n = 0; n < words_of(Tile); ++n) row_at(rows, stride, i)[n] = emulated_tiles.tile[Tile][i][n];
  }
}
template <int Sums, int A, int B>
PNF_INLINE void tile_dot() {
  require(rows_of(A) == rows_of(Sums) && rows_of(B) == words_of(A) && words_of(B) == words_of(Sums));
  for (int m = 0; m < rows_of(Sums); ++m) {
    Vec first = {}, second = {};
    for (int k = 0; k < words_of(A); ++k) {
      const Vec a = splat(emulated_tiles.tile[A][m][k]), b = load(emulated_tiles.tile[B][k]);
      first = first + low_half(a) * low_half(b);
      second = second + high_half(a) * high_half(b);
    }
    float* const sums = emulated_tiles.tile[Sums][m];
    store(sums, load(sums) + (first + second));
  }
}

}  // namespace pnf::amx_bf16
