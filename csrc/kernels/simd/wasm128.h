#pragma once
#include <wasm_simd128.h>

#include "kernels/layout.h"

#define PNF_INLINE static inline __attribute__((always_inline))
#ifndef PNF_WASM128
#define PNF_WASM128 wasm128
#endif

namespace pnf::PNF_WASM128 {

using Vec = v128_t;
constexpr int kLanes = 4;
// Engines on x86-64 have 15 registers for vectors: 2 x 4 accumulators, 4 weights, a broadcast and a product.
constexpr int kTilePixels = 2;
constexpr int kTileBlocks = 1;
// Of several channels LLVM makes one expression a sum, whose operands all wait in memory; engines keep that order.
constexpr int kTileUnroll = 1;
constexpr int kDepthwisePixels = 7;
constexpr int kStripPixels = 7;

PNF_INLINE Vec load(const float* p) { return wasm_v128_load(p); }
// Signed conversion is an instruction of every processor.
PNF_INLINE Vec load_u8(const unsigned char* p) {
  return wasm_f32x4_convert_i32x4(wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p))));
}
PNF_INLINE void store(float* p, Vec x) { wasm_v128_store(p, x); }
PNF_INLINE Vec low_half(Vec pairs) { return wasm_i32x4_shl(pairs, 16); }
PNF_INLINE Vec high_half(Vec pairs) { return wasm_v128_and(pairs, wasm_i32x4_splat(static_cast<int>(0xffff0000u))); }
PNF_INLINE Vec load(const Bf16* p) { return wasm_i32x4_shl(wasm_u32x4_load16x4(p), 16); }
// To the nearest, ties to even; a NaN stays one.
PNF_INLINE void store(Bf16* p, Vec x) {
  const Vec odd = wasm_v128_and(wasm_u32x4_shr(x, 16), wasm_i32x4_splat(1));
  const Vec rounded = wasm_i32x4_add(x, wasm_i32x4_add(odd, wasm_i32x4_splat(0x7fff)));
  const Vec quiet = wasm_v128_or(x, wasm_i32x4_splat(0x400000));
  const Vec upper = wasm_u32x4_shr(wasm_v128_bitselect(rounded, quiet, wasm_f32x4_eq(x, x)), 16);
  wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(upper, upper), 0);
}
PNF_INLINE Vec splat(float x) { return wasm_f32x4_splat(x); }
PNF_INLINE Vec add(Vec a, Vec b) { return wasm_f32x4_add(a, b); }
PNF_INLINE Vec mul(Vec a, Vec b) { return wasm_f32x4_mul(a, b); }
#if defined(__wasm_relaxed_simd__)
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) { return __builtin_wasm_fma_f32x4(a, b, c); }
#else
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) { return add(mul(a, b), c); }
#endif
// The pseudo-minimum and maximum give their first operand where one is a NaN, and are one instruction of x86-64 each.
PNF_INLINE Vec relu(Vec x) { return wasm_f32x4_pmax(x, splat(0.0f)); }
PNF_INLINE Vec at_most(Vec x, Vec cap) { return wasm_f32x4_pmin(x, cap); }
PNF_INLINE Vec prelu(Vec x, Vec slope) { return fma(slope, wasm_f32x4_pmin(splat(0.0f), x), relu(x)); }
PNF_INLINE Vec if_positive(Vec x, Vec a, Vec b) { return wasm_v128_bitselect(a, b, wasm_f32x4_gt(x, splat(0.0f))); }
PNF_INLINE Vec if_equal(Vec a, Vec b, Vec x, Vec y) { return wasm_v128_bitselect(x, y, wasm_f32x4_eq(a, b)); }
PNF_INLINE Vec max_nan(Vec a, Vec b) { return wasm_f32x4_max(a, b); }

PNF_INLINE Vec times_power_of_two(Vec x, Vec n) {
  return mul(x, wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n), wasm_i32x4_splat(127)), 23));
}
PNF_INLINE Vec interleave_low(Vec a, Vec b) { return wasm_i32x4_shuffle(a, b, 0, 4, 1, 5); }
PNF_INLINE Vec interleave_high(Vec a, Vec b) { return wasm_i32x4_shuffle(a, b, 2, 6, 3, 7); }

}  // namespace pnf::PNF_WASM128
