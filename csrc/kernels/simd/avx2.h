#pragma once
#include <immintrin.h>

#include "kernels/layout.h"

#define PNF_INLINE static inline __attribute__((always_inline))

namespace pnf::avx2 {

using Vec = __m256;
constexpr int kLanes = 8;
// 6 x 2 accumulators, 2 weights and a broadcast fill 15 of the 16 registers.
constexpr int kTilePixels = 6;
constexpr int kTileBlocks = 1;
constexpr int kTileUnroll = 4;
// 7 accumulators, up to 7 weights and the input.
constexpr int kDepthwisePixels = 7;
constexpr int kStripPixels = 12;

PNF_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
PNF_INLINE Vec load_u8(const unsigned char* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
PNF_INLINE void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
PNF_INLINE Vec low_half(Vec pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16)); }
PNF_INLINE Vec high_half(Vec pairs) {
  return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
PNF_INLINE Vec load(const Bf16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
// To the nearest, ties to even; a NaN stays one.
PNF_INLINE void store(Bf16* p, Vec x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(upper, upper), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
PNF_INLINE Vec splat(float x) { return _mm256_set1_ps(x); }
PNF_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
PNF_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
PNF_INLINE Vec prelu(Vec x, Vec slope) { return _mm256_blendv_ps(x, _mm256_mul_ps(x, slope), x); }
// Of two operands of which one is a NaN, the instruction gives the second.
PNF_INLINE Vec at_most(Vec x, Vec cap) { return _mm256_min_ps(cap, x); }
PNF_INLINE Vec relu(Vec x) { return _mm256_max_ps(_mm256_setzero_ps(), x); }
PNF_INLINE Vec if_positive(Vec x, Vec a, Vec b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
}
PNF_INLINE Vec if_equal(Vec a, Vec b, Vec x, Vec y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
PNF_INLINE Vec max_nan(Vec a, Vec b) {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}

PNF_INLINE Vec times_power_of_two(Vec x, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return mul(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
PNF_INLINE Vec interleave_low(Vec a, Vec b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
PNF_INLINE Vec interleave_high(Vec a, Vec b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}

}  // namespace pnf::avx2
