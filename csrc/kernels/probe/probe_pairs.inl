// Products of pairs of Bf16 from registers, for rooflines. Include after a vocabulary from kernels/simd that has `dot`, with
// PNF_ISA naming its namespace.
#include "kernels/probe/probe.h"

namespace pnf::PNF_ISA {

double probe_fma(long iterations, float* sink) {
  // As many sums as a tile has, which fit in the registers.
  constexpr int kSums = kTilePixels;
  const Vec a = splat(0.999f), b = splat(0.001f);
  Vec acc[kSums];
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) acc[i] = splat(static_cast<float>(i));
  for (long n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) acc[i] = dot(a, b, acc[i]);
  }
#pragma GCC unroll 16
  for (int i = 1; i < kSums; ++i) acc[0] = add(acc[0], acc[i]);
  store(sink, acc[0]);
  return static_cast<double>(iterations) * kSums * kLanes * 2;
}

}  // namespace pnf::PNF_ISA
