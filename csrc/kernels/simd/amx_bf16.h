#pragma once
#define PNF_AVX512 amx_bf16
#include "kernels/simd/avx512_bf16.h"

namespace pnf::amx_bf16 {

// Tile registers: eight of up to 16 rows of 64 bytes. Assembly instead of the compilers' intrinsics, some of which may
// be moved before the stores whose memory they read.
inline constexpr int kTileRows = 16, kTileBytes = 64;

struct alignas(64) TileShapes {
  unsigned char palette = 1, start_row = 0, reserved[14] = {};
  unsigned short row_bytes[16] = {};
  unsigned char rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

PNF_INLINE void tile_configure(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
PNF_INLINE void tile_release() { asm volatile("tilerelease"); }
template <int Tile>
PNF_INLINE void tile_load(const float* rows, std::ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
PNF_INLINE void tile_store(float* rows, std::ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride), "i"(Tile) : "memory");
}
// sums[row][out] += the products of both halves of a[row][k] and b[k][out], over all words k.
template <int Sums, int A, int B>
PNF_INLINE void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}

}  // namespace pnf::amx_bf16
