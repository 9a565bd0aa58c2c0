#pragma once
#ifndef PNF_AVX512
#define PNF_AVX512 avx512_bf16
#endif
#include "kernels/simd/avx512.h"

namespace pnf::PNF_AVX512 {

// Two pixels of a block, 32 Bf16.
using Two = __m512i;

PNF_INLINE Two load_two(const Bf16* p) { return _mm512_loadu_si512(p); }
PNF_INLINE void store_two(Bf16* p, Two x) { _mm512_storeu_si512(p, x); }

PNF_INLINE Two load_each(const Bf16* first, const Bf16* second) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)),
                            1);
}
PNF_INLINE void store_each(Bf16* first, Bf16* second, Two x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(first), _mm512_castsi512_si256(x));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(second), _mm512_extracti64x4_epi64(x, 1));
}

PNF_INLINE Two round_two(Vec first, Vec second) { return reinterpret_cast<Two>(_mm512_cvtne2ps_pbh(second, first)); }

// Slopes as prelu_two meets them: those of even and of odd channels, for either pixel.
struct TwoSlopes {
  Vec even, odd;
};
PNF_INLINE TwoSlopes two_slopes(const float* slope) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
  const Vec s = load(slope);
  return {_mm512_permutexvar_ps(even, s), _mm512_permutexvar_ps(_mm512_add_epi32(even, _mm512_set1_epi32(1)), s)};
}
// The same in memory.
constexpr int kTwoSlopesFloats = 2 * kLanes;
PNF_INLINE void store_slopes(float* out, const TwoSlopes& slopes) {
  store(out, slopes.even);
  store(out + kLanes, slopes.odd);
}
PNF_INLINE TwoSlopes load_slopes(const float* p) { return {load(p), load(p + kLanes)}; }
// From 16 and 16 elements to their turns.
PNF_INLINE __m512i in_turns(__m512i x) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, x);
}
// Words of both pixels, the first one in their lower halves.
PNF_INLINE Vec across(Two x) { return _mm512_castsi512_ps(in_turns(x)); }
PNF_INLINE Two prelu_two(Two x, const TwoSlopes& slopes) {
  const Vec even = mul(low_half(_mm512_castsi512_ps(x)), slopes.even);
  const Vec odd = mul(high_half(_mm512_castsi512_ps(x)), slopes.odd);
  return _mm512_mask_mov_epi16(x, _mm512_movepi16_mask(x), in_turns(round_two(even, odd)));
}
// The smaller ones; numbers of half precision compare as integers do where caps are positive, and a NaN stays one.
PNF_INLINE Two at_most_two(Two x, Two caps) {
  const __mmask32 numbers = _mm512_cmple_epi16_mask(x, _mm512_set1_epi16(0x7f80));
  return _mm512_mask_min_epi16(x, numbers, x, caps);
}
// Words of each channel of two pixels, `low` in their lower halves.
PNF_INLINE void store_pairs_of_two(float* out, Two low, Two high) {
  const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(low, first, high));
  _mm512_storeu_si512(out + kLanes, _mm512_permutex2var_epi16(low, second, high));
}
// The upper halves of words as lower ones, below zeros; and words that have the upper halves of others besides.
PNF_INLINE Vec upper_to_lower(Vec words) {
  return _mm512_castsi512_ps(_mm512_srli_epi32(_mm512_castps_si512(words), 16));
}
PNF_INLINE Vec with_upper(Vec lower, Vec upper) { return _mm512_or_ps(lower, high_half(upper)); }

// Words of two values a lane.
PNF_INLINE Vec pair(Vec low, Vec high) { return _mm512_castsi512_ps(in_turns(round_two(low, high))); }

// a0 b0 c0 a1 b1 c1 and so on, 48 in all.
PNF_INLINE void store_in_turns(Bf16* out, Vec a, Vec b, Vec c) {
  const __m512i first = _mm512_set_epi16(26, 10, 41, 25, 9, 40, 24, 8, 39, 23, 7, 38, 22, 6, 37, 21, 5, 36, 20, 4, 35,
                                         19, 3, 34, 18, 2, 33, 17, 1, 32, 16, 0);
  const __m512i second =
      _mm512_zextsi256_si512(_mm256_set_epi16(47, 31, 15, 46, 30, 14, 45, 29, 13, 44, 28, 12, 43, 27, 11, 42));
  const __m512i ab = round_two(a, b), cc = round_two(c, c);
  store_two(out, _mm512_permutex2var_epi16(ab, first, cc));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32),
                      _mm512_castsi512_si256(_mm512_permutex2var_epi16(ab, second, cc)));
}

// Nine elements each of three places, taken in the order `nine`, and five zeros.
struct ThreeTimesNine {
  __m512i first_two, third;
};
PNF_INLINE ThreeTimesNine three_times_nine(const short (&nine)[9]) {
  alignas(64) short two[32] = {}, three[32] = {};
  for (short i = 0; i < 9; ++i) {
    two[i] = nine[i];
    two[9 + i] = three[18 + i] = static_cast<short>(32 + nine[i]);
    three[i] = i;
    three[9 + i] = static_cast<short>(9 + i);
  }
  return {_mm512_load_si512(two), _mm512_load_si512(three)};
}
PNF_INLINE Two gather(const ThreeTimesNine& order, const Bf16* a, const Bf16* b, const Bf16* c) {
  constexpr __mmask16 kNine = 0x1ff;
  constexpr __mmask32 kAll = 0x7ffffff;
  const auto nine = [](const Bf16* p) { return _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(kNine, p)); };
  const __m512i two = _mm512_permutex2var_epi16(nine(a), order.first_two, nine(b));
  return _mm512_maskz_permutex2var_epi16(kAll, two, order.third, nine(c));
}

// c plus both products of a word's halves.
PNF_INLINE Vec dot(Vec a, Vec b, Vec c) {
  return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// The same with one word for all lanes of a, which an integer broadcast brings along with the product.
PNF_INLINE Vec dot_word(const float* a, Vec b, Vec c) {
  const __m512i word = _mm512_set1_epi32(__builtin_bit_cast(int, *a));
  return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(b), reinterpret_cast<__m512bh>(word));
}

}  // namespace pnf::PNF_AVX512
