#include "kernels/probe/probe.h"
#include "kernels/simd/neon_bf16.h"

namespace pnf::neon_bf16 {

double probe_fma(long iterations, float* sink) {
  constexpr int kSums = 6;
  const Vec a = splat(0.999f), b = splat(0.001f);
  Vec acc[kSums];
#pragma GCC unroll 6
  for (int i = 0; i < kSums; ++i) acc[i] = splat(static_cast<float>(i));
  for (long n = 0; n < iterations; ++n) {
#pragma GCC unroll 6
    for (int i = 0; i < kSums; ++i) acc[i] = dot(a, b, acc[i]);
  }
#pragma GCC unroll 6
  for (int i = 1; i < kSums; ++i) acc[0] = add(acc[0], acc[i]);
  store(sink, acc[0]);
  return static_cast<double>(iterations) * kSums * kLanes * 2;
}

}  // namespace pnf::neon_bf16
