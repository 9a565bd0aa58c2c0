// Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
#include "kernels/probe/probe.h"

namespace pnf::PNF_ISA {

double probe_fma(long iterations, float* sink) {
  constexpr int kSums = 12;  // more than latency x throughput of any core, fewer than the registers of AVX2
  const Vec a = splat(0.999f), b = splat(0.001f);
  Vec acc[kSums];
#pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) acc[i] = splat(static_cast<float>(i));
  for (long n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) acc[i] = fma(acc[i], a, b);
  }
#pragma GCC unroll 12
  for (int i = 1; i < kSums; ++i) acc[0] = add(acc[0], acc[i]);
  store(sink, acc[0]);
  return static_cast<double>(iterations) * kSums * kLanes;
}

void probe_read(const float* data, long floats, float* sink) {
  constexpr int kSums = 8;
  Vec acc[kSums];
#pragma GCC unroll 8
  for (int i = 0; i < kSums; ++i) acc[i] = splat(0.0f);
  for (long n = 0; n < floats; n += kSums * kLanes) {
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) acc[i] = add(acc[i], load(data + n + i * kLanes));
  }
#pragma GCC unroll 8
  for (int i = 1; i < kSums; ++i) acc[0] = add(acc[0], acc[i]);
  store(sink, acc[0]);
}

}  // namespace pnf::PNF_ISA
