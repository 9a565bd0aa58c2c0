#pragma once
#include <arm_neon.h>

#include "kernels/layout.h"

#define PNF_INLINE static inline __attribute__((always_inline))

namespace pnf::neon_bf16 {

// A block's channels of a pixel in four registers, so that the kernels of pairs, whose vectors are blocks, serve here, too.
struct Vec {
  float32x4_t part[4];
};
constexpr int kLanes = 16;
// Of 32 registers: 6 x 4 sums, 4 weights and a broadcast.
constexpr int kTilePixels = 6;
constexpr int kTileBlocks = 1;
constexpr int kTileUnroll = 4;
// 4 x 4 sums and the weights of three taps.
constexpr int kDepthwisePixels = 4;

// f(i) as part i.
template <typename F>
PNF_INLINE Vec each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

PNF_INLINE Vec load(const float* p) {
  return each([p](int i) { return vld1q_f32(p + 4 * i); });
}
PNF_INLINE Vec load_u8(const unsigned char* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
           vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))}};
}
PNF_INLINE void store(float* p, Vec x) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.part[i]);
}

// Eight elements as floats, and back, to the nearest, ties to even.
PNF_INLINE float32x4_t widen_low(uint16x8_t x) { return vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)); }
PNF_INLINE float32x4_t widen_high(uint16x8_t x) { return vreinterpretq_f32_u32(vshll_high_n_u16(x, 16)); }
PNF_INLINE uint16x8_t narrow(float32x4_t low, float32x4_t high) {
  return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high));
}

PNF_INLINE std::uint16_t* elements(Bf16* p) { return reinterpret_cast<std::uint16_t*>(p); }
PNF_INLINE const std::uint16_t* elements(const Bf16* p) { return reinterpret_cast<const std::uint16_t*>(p); }

PNF_INLINE Vec load(const Bf16* p) {
  const uint16x8_t low = vld1q_u16(elements(p)), high = vld1q_u16(elements(p) + 8);
  return {{widen_low(low), widen_high(low), widen_low(high), widen_high(high)}};
}
PNF_INLINE void store(Bf16* p, Vec x) {
  vst1q_u16(elements(p), narrow(x.part[0], x.part[1]));
  vst1q_u16(elements(p) + 8, narrow(x.part[2], x.part[3]));
}

PNF_INLINE uint32x4_t bits(float32x4_t x) { return vreinterpretq_u32_f32(x); }
PNF_INLINE float32x4_t floats(uint32x4_t x) { return vreinterpretq_f32_u32(x); }

PNF_INLINE Vec low_half(Vec pairs) {
  return each([&](int i) { return floats(vshlq_n_u32(bits(pairs.part[i]), 16)); });
}
PNF_INLINE Vec high_half(Vec pairs) {
  return each([&](int i) { return floats(vandq_u32(bits(pairs.part[i]), vdupq_n_u32(0xffff0000u))); });
}
PNF_INLINE Vec splat(float x) {
  return each([x](int) { return vdupq_n_f32(x); });
}
PNF_INLINE Vec add(Vec a, Vec b) {
  return each([&](int i) { return vaddq_f32(a.part[i], b.part[i]); });
}
PNF_INLINE Vec mul(Vec a, Vec b) {
  return each([&](int i) { return vmulq_f32(a.part[i], b.part[i]); });
}
PNF_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return each([&](int i) { return vfmaq_f32(c.part[i], a.part[i], b.part[i]); });
}
PNF_INLINE Vec prelu(Vec x, Vec slope) {
  return each([&](int i) {
    const uint32x4_t negative = vcltzq_s32(vreinterpretq_s32_f32(x.part[i]));
    return vbslq_f32(negative, vmulq_f32(x.part[i], slope.part[i]), x.part[i]);
  });
}
PNF_INLINE Vec at_most(Vec x, Vec cap) {
  return each([&](int i) { return vminq_f32(x.part[i], cap.part[i]); });
}
PNF_INLINE Vec relu(Vec x) {
  return each([&](int i) { return vmaxq_f32(x.part[i], vdupq_n_f32(0.0f)); });
}
PNF_INLINE Vec max_nan(Vec a, Vec b) {
  return each([&](int i) { return vmaxq_f32(a.part[i], b.part[i]); });
}

// Two pixels of a block, 32 Bf16.
struct Two {
  uint16x8_t part[4];
};

PNF_INLINE Two load_each(const Bf16* first, const Bf16* second) {
  return {{vld1q_u16(elements(first)), vld1q_u16(elements(first) + 8), vld1q_u16(elements(second)),
           vld1q_u16(elements(second) + 8)}};
}
PNF_INLINE Two load_two(const Bf16* p) { return load_each(p, p + kBlock); }
PNF_INLINE void store_each(Bf16* first, Bf16* second, Two x) {
  vst1q_u16(elements(first), x.part[0]);
  vst1q_u16(elements(first) + 8, x.part[1]);
  vst1q_u16(elements(second), x.part[2]);
  vst1q_u16(elements(second) + 8, x.part[3]);
}
PNF_INLINE void store_two(Bf16* p, Two x) { store_each(p, p + kBlock, x); }
PNF_INLINE Two round_two(Vec first, Vec second) {
  return {{narrow(first.part[0], first.part[1]), narrow(first.part[2], first.part[3]),
           narrow(second.part[0], second.part[1]), narrow(second.part[2], second.part[3])}};
}

struct TwoSlopes {
  Vec slope;
};
PNF_INLINE TwoSlopes two_slopes(const float* slope) { return {load(slope)}; }
PNF_INLINE Two prelu_two(Two x, const TwoSlopes& slopes) {
  const auto part = [&](int i) {
    const float32x4_t *const slope = slopes.slope.part + i % 2 * 2, low = vmulq_f32(widen_low(x.part[i]), slope[0]),
                             high = vmulq_f32(widen_high(x.part[i]), slope[1]);
    return vbslq_u16(vcltzq_s16(vreinterpretq_s16_u16(x.part[i])), narrow(low, high), x.part[i]);
  };
  return {{part(0), part(1), part(2), part(3)}};
}
// The smaller ones; numbers of half precision compare as integers do where caps are positive, and a NaN stays one.
PNF_INLINE Two at_most_two(Two x, Two caps) {
  const auto part = [&](int i) {
    const int16x8_t value = vreinterpretq_s16_u16(x.part[i]), cap = vreinterpretq_s16_u16(caps.part[i]);
    const uint16x8_t number = vcleq_s16(value, vdupq_n_s16(0x7f80));
    return vbslq_u16(number, vreinterpretq_u16_s16(vminq_s16(value, cap)), x.part[i]);
  };
  return {{part(0), part(1), part(2), part(3)}};
}
// Words of each channel of two pixels, `low` in their lower halves.
PNF_INLINE void store_pairs_of_two(float* out, Two low, Two high) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    vst1q_f32(out + 8 * i, vreinterpretq_f32_u16(vzip1q_u16(low.part[i], high.part[i])));
    vst1q_f32(out + 8 * i + 4, vreinterpretq_f32_u16(vzip2q_u16(low.part[i], high.part[i])));
  }
}
// The upper halves of words as lower ones, below zeros; and words that have the upper halves of others besides.
PNF_INLINE Vec upper_to_lower(Vec words) {
  return each([&](int i) { return floats(vshrq_n_u32(bits(words.part[i]), 16)); });
}
PNF_INLINE Vec with_upper(Vec lower, Vec upper) {
  const Vec high = high_half(upper);
  return each([&](int i) { return floats(vorrq_u32(bits(lower.part[i]), bits(high.part[i]))); });
}
// Words of two values a lane.
PNF_INLINE Vec pair(Vec low, Vec high) {
  return each([&](int i) {
    const uint16x8_t halves = narrow(low.part[i], high.part[i]);
    return vreinterpretq_f32_u16(vzip1q_u16(halves, vextq_u16(halves, halves, 4)));
  });
}

// a0 b0 c0 a1 b1 c1 and so on, 48 in all.
PNF_INLINE void store_in_turns(Bf16* out, Vec a, Vec b, Vec c) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const int i = 2 * half;
    vst3q_u16(elements(out) + 24 * half,
              {{narrow(a.part[i], a.part[i + 1]), narrow(b.part[i], b.part[i + 1]), narrow(c.part[i], c.part[i + 1])}});
  }
}

// Nine elements each of three places, taken in the order `nine`, and five zeros.
struct ThreeTimesNine {
  short nine[9];
};
PNF_INLINE ThreeTimesNine three_times_nine(const short (&nine)[9]) {
  ThreeTimesNine order = {};
  for (int i = 0; i < 9; ++i) order.nine[i] = nine[i];
  return order;
}
PNF_INLINE Two gather(const ThreeTimesNine& order, const Bf16* a, const Bf16* b, const Bf16* c) {
  std::uint16_t gathered[32] = {};
  for (int i = 0; i < 9; ++i) {
    gathered[i] = elements(a)[order.nine[i]];
    gathered[9 + i] = elements(b)[order.nine[i]];
    gathered[18 + i] = elements(c)[order.nine[i]];
  }
  return {{vld1q_u16(gathered), vld1q_u16(gathered + 8), vld1q_u16(gathered + 16), vld1q_u16(gathered + 24)}};
}

PNF_INLINE float32x4_t dot_part(float32x4_t a, float32x4_t b, float32x4_t c) {
  return vbfdotq_f32(c, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
}
// c plus both products of a word's halves.
PNF_INLINE Vec dot(Vec a, Vec b, Vec c) {
  return each([&](int i) { return dot_part(a.part[i], b.part[i], c.part[i]); });
}
// The same with one word for all lanes of a.
PNF_INLINE Vec dot_word(const float* a, Vec b, Vec c) {
  const float32x4_t word = vld1q_dup_f32(a);
  return each([&](int i) { return dot_part(b.part[i], word, c.part[i]); });
}

}  // namespace pnf::neon_bf16
