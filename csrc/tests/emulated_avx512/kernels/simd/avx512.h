// The vocabulary of the AVX-512 sets (kernels/simd) in plain C++: found before the real one, it lets their kernels run,
// and sanitizers watch them, on any processor. One lane after another, products and sums rounded separately.
#pragma once
#include "kernels/layout.h"

#define PNF_INLINE static inline __attribute__((always_inline))
#ifndef PNF_AVX512
#define PNF_AVX512 avx512
#endif
#define PNF_INTERLEAVES

namespace pnf::PNF_AVX512 {

typedef float Vec __attribute__((vector_size(64)));
typedef float LooseVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef std::uint32_t Words __attribute__((vector_size(64)));

constexpr int kLanes = 16;
// Smaller than the real ones, which would take minutes to compile under sanitizers.
constexpr int kTilePixels = 4;
constexpr int kTileBlocks = 2;
constexpr int kTileUnroll = 4;
constexpr int kDepthwisePixels = 7;
constexpr int kStripPixels = 14;

// Two Bf16 in a word, which may lie at any multiple of two bytes.
typedef std::uint16_t LooseHalf __attribute__((may_alias));

PNF_INLINE float widened(std::uint32_t half) { return __builtin_bit_cast(float, half << 16); }
PNF_INLINE std::uint32_t halved(float x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  return (x != x ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

PNF_INLINE Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
PNF_INLINE Vec load_u8(const unsigned char* p) {
  Vec x = {};
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(p[i]);
  return x;
}
PNF_INLINE void store(float* p, Vec x) { *reinterpret_cast<LooseVec*>(p) = x; }
PNF_INLINE Vec low_half(Vec pairs) { return reinterpret_cast<Vec>(reinterpret_cast<Words>(pairs) << 16); }
PNF_INLINE Vec high_half(Vec pairs) { return reinterpret_cast<Vec>(reinterpret_cast<Words>(pairs) & 0xffff0000u); }
PNF_INLINE Vec load(const Bf16* p) {
  Vec x = {};
  for (int i = 0; i < kLanes; ++i) x[i] = widened(reinterpret_cast<const LooseHalf*>(p)[i]);
  return x;
}
PNF_INLINE void store(Bf16* p, Vec x) {
  for (int i = 0; i < kLanes; ++i) reinterpret_cast<LooseHalf*>(p)[i] = static_cast<std::uint16_t>(halved(x[i]));
}
PNF_INLINE Vec splat(float x) { return Vec{} + x; }
PNF_INLINE Vec splat_two(const float* p) {
  Vec x = {};
  for (int i = 0; i < kLanes; ++i) x[i] = p[i % 2];
  return x;
}
// The two lanes of a and of b in turns that begin at `first`, in each quarter.
PNF_INLINE Vec zip(Vec a, Vec b, int first) {
  Vec x = {};
  for (int i = 0; i < kLanes; ++i) x[i] = (i % 2 == 0 ? a : b)[i / 4 * 4 + first + i % 4 / 2];
  return x;
}
PNF_INLINE Vec zip_low(Vec a, Vec b) { return zip(a, b, 0); }
PNF_INLINE Vec zip_high(Vec a, Vec b) { return zip(a, b, 2); }
PNF_INLINE Vec add_zipped(Vec low, Vec high) {
  Vec x = {};
  for (int i = 0; i < kLanes; ++i) {
    const Vec& zipped = i % 4 < 2 ? low : high;
    x[i] = zipped[i / 4 * 4 + i % 2 * 2] + zipped[i / 4 * 4 + i % 2 * 2 + 1];
  }
  return x;
}
PNF_INLINE Vec add(Vec a, Vec b) { return a + b; }
PNF_INLINE Vec mul(Vec a, Vec b) { return a * b; }
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
PNF_INLINE Vec prelu(Vec x, Vec slope) { return (reinterpret_cast<Words>(x) >> 31) != 0 ? x * slope : x; }
PNF_INLINE Vec at_most(Vec x, Vec cap) { return x > cap ? cap : x; }
PNF_INLINE Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }
PNF_INLINE Vec if_positive(Vec x, Vec a, Vec b) { return x > 0.0f ? a : b; }
PNF_INLINE Vec if_equal(Vec a, Vec b, Vec x, Vec y) { return a == b ? x : y; }
PNF_INLINE Vec max_nan(Vec a, Vec b) { return a != a ? a : (a > b ? a : b); }

PNF_INLINE Vec times_power_of_two(Vec x, Vec n) {
  for (int i = 0; i < kLanes; ++i) {
    x[i] *= __builtin_bit_cast(float, static_cast<std::uint32_t>(static_cast<int>(n[i]) + 127) << 23);
  }
  return x;
}
// Lanes of a and b in turns, from lane `first` on.
PNF_INLINE Vec interleave(Vec a, Vec b, int first) {
  Vec x = {};
  for (int i = 0; i < kLanes; ++i) x[i] = i % 2 == 0 ? a[first + i / 2] : b[first + i / 2];
  return x;
}
PNF_INLINE Vec interleave_low(Vec a, Vec b) { return interleave(a, b, 0); }
PNF_INLINE Vec interleave_high(Vec a, Vec b) { return interleave(a, b, kLanes / 2); }

}  // namespace pnf::PNF_AVX512
