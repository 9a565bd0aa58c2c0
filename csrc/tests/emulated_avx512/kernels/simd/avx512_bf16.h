// As avx512.h in this folder, for the sets that multiply pairs of Bf16.
#pragma once
#ifndef PNF_AVX512
#define PNF_AVX512 avx512_bf16
#endif
#include "kernels/simd/avx512.h"

namespace pnf::PNF_AVX512 {

struct Two {
  std::uint16_t element[32];
};

PNF_INLINE void store_halves(Bf16* p, const std::uint16_t* elements, int count) {
  for (int i = 0; i < count; ++i) reinterpret_cast<LooseHalf*>(p)[i] = elements[i];
}
PNF_INLINE Two load_two(const Bf16* p) {
  Two x = {};
  for (int i = 0; i < 32; ++i) x.element[i] = reinterpret_cast<const LooseHalf*>(p)[i];
  return x;
}
PNF_INLINE Two load_each(const Bf16* first, const Bf16* second) {
  Two x = {};
  for (int i = 0; i < 32; ++i) x.element[i] = reinterpret_cast<const LooseHalf*>(i < 16 ? first : second)[i % 16];
  return x;
}
PNF_INLINE void store_two(Bf16* p, const Two& x) { store_halves(p, x.element, 32); }
PNF_INLINE void store_each(Bf16* first, Bf16* second, const Two& x) {
  store_halves(first, x.element, 16);
  store_halves(second, x.element + 16, 16);
}
PNF_INLINE Two round_two(Vec first, Vec second) {
  Two x = {};
  for (int i = 0; i < kLanes; ++i) {
    x.element[i] = static_cast<std::uint16_t>(halved(first[i]));
    x.element[kLanes + i] = static_cast<std::uint16_t>(halved(second[i]));
  }
  return x;
}

struct TwoSlopes {
  Vec slope;
};
PNF_INLINE TwoSlopes two_slopes(const float* slope) { return {load(slope)}; }
constexpr int kTwoSlopesFloats = 2 * kLanes;
PNF_INLINE void store_slopes(float* out, const TwoSlopes& slopes) { store(out, slopes.slope); }
PNF_INLINE TwoSlopes load_slopes(const float* p) { return {load(p)}; }
PNF_INLINE Two prelu_two(const Two& x, const TwoSlopes& slopes) {
  Two result = x;
  for (int i = 0; i < 32; ++i) {
    if (x.element[i] >> 15 != 0) {
      result.element[i] = static_cast<std::uint16_t>(halved(widened(x.element[i]) * slopes.slope[i % kLanes]));
    }
  }
  return result;
}
PNF_INLINE Two at_most_two(const Two& x, const Two& caps) {
  Two result = x;
  for (int i = 0; i < 32; ++i) {
    if (widened(x.element[i]) > widened(caps.element[i])) result.element[i] = caps.element[i];
  }
  return result;
}
PNF_INLINE float word_of(std::uint32_t low, std::uint32_t high) { return __builtin_bit_cast(float, low | high << 16); }
PNF_INLINE Vec across(const Two& x) {
  Vec words = {};
  for (int i = 0; i < kLanes; ++i) words[i] = word_of(x.element[i], x.element[kLanes + i]);
  return words;
}
PNF_INLINE void store_pairs_of_two(float* out, const Two& low, const Two& high) {
  Vec first = {}, second = {};
  for (int i = 0; i < kLanes; ++i) {
    first[i] = word_of(low.element[i], high.element[i]);
    second[i] = word_of(low.element[kLanes + i], high.element[kLanes + i]);
  }
  store(out, first);
  store(out + kLanes, second);
}
PNF_INLINE Vec upper_to_lower(Vec words) { return reinterpret_cast<Vec>(reinterpret_cast<Words>(words) >> 16); }
PNF_INLINE Vec with_upper(Vec lower, Vec upper) {
  return reinterpret_cast<Vec>(reinterpret_cast<Words>(lower) | reinterpret_cast<Words>(high_half(upper)));
}
PNF_INLINE Vec pair(Vec low, Vec high) {
  Vec x = {};
  for (int i = 0; i < kLanes; ++i) x[i] = word_of(halved(low[i]), halved(high[i]));
  return x;
}
PNF_INLINE void store_in_turns(Bf16* out, Vec a, Vec b, Vec c) {
  for (int i = 0; i < kLanes; ++i) {
    const std::uint16_t turn[] = {static_cast<std::uint16_t>(halved(a[i])), static_cast<std::uint16_t>(halved(b[i])),
                                  static_cast<std::uint16_t>(halved(c[i]))};
    store_halves(out + 3 * i, turn, 3);
  }
}

struct ThreeTimesNine {
  short nine[9];
};
PNF_INLINE ThreeTimesNine three_times_nine(const short (&nine)[9]) {
  ThreeTimesNine order = {};
  for (int i = 0; i < 9; ++i) order.nine[i] = nine[i];
  return order;
}
PNF_INLINE Two gather(const ThreeTimesNine& order, const Bf16* a, const Bf16* b, const Bf16* c) {
  const Bf16* const rows[] = {a, b, c};
  Two x = {};
  for (int i = 0; i < 27; ++i) x.element[i] = reinterpret_cast<const LooseHalf*>(rows[i / 9])[order.nine[i % 9]];
  return x;
}

PNF_INLINE Vec dot(Vec a, Vec b, Vec c) { return c + low_half(a) * low_half(b) + high_half(a) * high_half(b); }
PNF_INLINE Vec dot_word(const float* a, Vec b, Vec c) { return dot(splat(*a), b, c); }

}  // namespace pnf::PNF_AVX512
