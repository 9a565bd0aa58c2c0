#pragma once
#include "kernels/layout.h"

#define PNF_INLINE static inline __attribute__((always_inline))

namespace pnf::scalar {

using Vec = float;
constexpr int kLanes = 1;
constexpr int kTilePixels = 1;
constexpr int kTileBlocks = 1;
constexpr int kTileUnroll = 4;
constexpr int kDepthwisePixels = 2;
constexpr int kStripPixels = 2;

PNF_INLINE Vec load(const float* p) { return *p; }
PNF_INLINE Vec load_u8(const unsigned char* p) { return static_cast<float>(*p); }
PNF_INLINE void store(float* p, Vec x) { *p = x; }
PNF_INLINE Vec low_half(float pair) { return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, pair) << 16); }
PNF_INLINE Vec high_half(float pair) {
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, pair) & 0xffff0000u);
}
PNF_INLINE Vec load(const Bf16* p) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(*p) << 16); }
PNF_INLINE void store(Bf16* p, Vec x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded = x == x ? bits + 0x7fffu + (bits >> 16 & 1u) : bits | 0x400000u;
  *p = static_cast<Bf16>(rounded >> 16);
}
PNF_INLINE Vec splat(float x) { return x; }
PNF_INLINE Vec add(Vec a, Vec b) { return a + b; }
PNF_INLINE Vec mul(Vec a, Vec b) { return a * b; }
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
PNF_INLINE Vec prelu(Vec x, Vec slope) { return x < 0.0f ? x * slope : x; }
PNF_INLINE Vec at_most(Vec x, Vec cap) { return x > cap ? cap : x; }
PNF_INLINE Vec relu(Vec x) { return x < 0.0f ? 0.0f : x; }
PNF_INLINE Vec if_positive(Vec x, Vec a, Vec b) { return x > 0.0f ? a : b; }
PNF_INLINE Vec if_equal(Vec a, Vec b, Vec x, Vec y) { return a == b ? x : y; }
PNF_INLINE Vec max_nan(Vec a, Vec b) { return a > b || a != a ? a : b; }

// A NaN has no integer value; any power will do, as x is a NaN then.
PNF_INLINE Vec times_power_of_two(Vec x, Vec n) {
  return n == n ? x * __builtin_bit_cast(float, (static_cast<int>(n) + 127) << 23) : x;
}
PNF_INLINE Vec interleave_low(Vec a, Vec) { return a; }
PNF_INLINE Vec interleave_high(Vec, Vec b) { return b; }

}  // namespace pnf::scalar
