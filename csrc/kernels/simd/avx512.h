#pragma once
#include <immintrin.h>

#include "kernels/layout.h"

#define PNF_INLINE static inline __attribute__((always_inline))
#ifndef PNF_AVX512
#define PNF_AVX512 avx512
#endif
// There are registers for node/interleaved.inl, and multiply-adds at the rate of loads.
#define PNF_INTERLEAVES

namespace pnf::PNF_AVX512 {

using Vec = __m512;
constexpr int kLanes = 16;
// 14 x 2 accumulators, 2 weights and a broadcast fill 31 of the 32 registers.
constexpr int kTilePixels = 14;
constexpr int kTileBlocks = 2;
constexpr int kTileUnroll = 4;
constexpr int kDepthwisePixels = 14;
constexpr int kStripPixels = 14;

PNF_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
PNF_INLINE Vec load_u8(const unsigned char* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
PNF_INLINE void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
PNF_INLINE Vec low_half(Vec pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16)); }
PNF_INLINE Vec high_half(Vec pairs) {
  return _mm512_and_ps(pairs, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
PNF_INLINE Vec load(const Bf16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
// To the nearest, ties to even; a NaN stays one.
PNF_INLINE void store(Bf16* p, Vec x) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i kept =
      _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
#endif
}
PNF_INLINE Vec splat(float x) { return _mm512_set1_ps(x); }
// Two floats in turns.
PNF_INLINE Vec splat_two(const float* p) {
  double two;
  __builtin_memcpy(&two, p, sizeof two);
  return _mm512_castpd_ps(_mm512_set1_pd(two));
}
// a0 b0 a1 b1 a4 b4 a5 b5 and so on; the other lanes; and the sums of neighbours in both, in the order of a.
PNF_INLINE Vec zip_low(Vec a, Vec b) { return _mm512_unpacklo_ps(a, b); }
PNF_INLINE Vec zip_high(Vec a, Vec b) { return _mm512_unpackhi_ps(a, b); }
PNF_INLINE Vec add_zipped(Vec low, Vec high) {
  return _mm512_add_ps(_mm512_shuffle_ps(low, high, 0x88), _mm512_shuffle_ps(low, high, 0xdd));
}
PNF_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
PNF_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
PNF_INLINE Vec prelu(Vec x, Vec slope) {
  return _mm512_mask_mul_ps(x, _mm512_movepi32_mask(_mm512_castps_si512(x)), x, slope);
}
// Of two operands of which one is a NaN, the instruction gives the second.
PNF_INLINE Vec at_most(Vec x, Vec cap) { return _mm512_min_ps(cap, x); }
PNF_INLINE Vec relu(Vec x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }
PNF_INLINE Vec if_positive(Vec x, Vec a, Vec b) {
  return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), a);
}
PNF_INLINE Vec if_equal(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), x);
}
PNF_INLINE Vec max_nan(Vec a, Vec b) {
  const Vec larger = _mm512_max_ps(a, b);
  return _mm512_mask_mov_ps(larger, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}

PNF_INLINE Vec times_power_of_two(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }
PNF_INLINE Vec interleave_low(Vec a, Vec b) {
  const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(a, order, b);
}
PNF_INLINE Vec interleave_high(Vec a, Vec b) {
  const __m512i order = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return _mm512_permutex2var_ps(a, order, b);
}

}  // namespace pnf::PNF_AVX512
