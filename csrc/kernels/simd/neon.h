#pragma once
#include <arm_neon.h>

#include "kernels/layout.h"

#define PNF_INLINE static inline __attribute__((always_inline))

namespace pnf::neon {

using Vec = float32x4_t;
constexpr int kLanes = 4;
#if defined(__aarch64__)
// 6 x 4 accumulators, 4 weights and a broadcast fill 29 of the 32 registers.
constexpr int kTilePixels = 6;
constexpr int kDepthwisePixels = 14;
constexpr int kStripPixels = 12;
#else
// Of 16: 2 x 4 accumulators, 4 weights and 2 broadcasts.
constexpr int kTilePixels = 2;
constexpr int kDepthwisePixels = 7;
constexpr int kStripPixels = 7;
#endif
constexpr int kTileBlocks = 1;
constexpr int kTileUnroll = 4;

PNF_INLINE Vec load(const float* p) { return vld1q_f32(p); }
PNF_INLINE Vec load_u8(const unsigned char* p) {
  const uint32x4_t bytes = {p[0], p[1], p[2], p[3]};
  return vcvtq_f32_u32(bytes);
}
PNF_INLINE void store(float* p, Vec x) { vst1q_f32(p, x); }
PNF_INLINE Vec low_half(Vec pairs) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pairs), 16)); }
PNF_INLINE Vec high_half(Vec pairs) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pairs), vdupq_n_u32(0xffff0000u)));
}
PNF_INLINE Vec load(const Bf16* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p)), 16));
}
// To the nearest, ties to even; a NaN stays one.
PNF_INLINE void store(Bf16* p, Vec x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  vst1_u16(reinterpret_cast<std::uint16_t*>(p), vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16));
}
PNF_INLINE Vec splat(float x) { return vdupq_n_f32(x); }
PNF_INLINE Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
PNF_INLINE Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
PNF_INLINE Vec prelu(Vec x, Vec slope) {
  return vbslq_f32(vcltq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(0)), vmulq_f32(x, slope), x);
}
PNF_INLINE Vec at_most(Vec x, Vec cap) { return vminq_f32(x, cap); }
PNF_INLINE Vec relu(Vec x) { return vmaxq_f32(x, vdupq_n_f32(0.0f)); }
PNF_INLINE Vec if_positive(Vec x, Vec a, Vec b) { return vbslq_f32(vcgtq_f32(x, vdupq_n_f32(0.0f)), a, b); }
PNF_INLINE Vec if_equal(Vec a, Vec b, Vec x, Vec y) { return vbslq_f32(vceqq_f32(a, b), x, y); }
PNF_INLINE Vec max_nan(Vec a, Vec b) { return vmaxq_f32(a, b); }

PNF_INLINE Vec times_power_of_two(Vec x, Vec n) {
  return mul(x, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23)));
}
PNF_INLINE Vec interleave_low(Vec a, Vec b) { return vzipq_f32(a, b).val[0]; }
PNF_INLINE Vec interleave_high(Vec a, Vec b) { return vzipq_f32(a, b).val[1]; }

}  // namespace pnf::neon
