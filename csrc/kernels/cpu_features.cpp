#include "kernels/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace pnf {
namespace {

#if defined(__x86_64__)
unsigned saved_registers() {
  unsigned low, high;
  // xgetbv by its bytes: the mnemonic's intrinsic would ask for -mxsave in a baseline file.
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

CpuFeatures detect() {
  CpuFeatures features;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28;
  const bool avx_fma = (c & kFma) && (c & kAvx);
  if (!(c & kOsxsave) || !avx_fma) return features;
  constexpr unsigned kYmm = 0x6, kZmm = 0xe6;
  const unsigned saved = saved_registers();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  constexpr unsigned kAvx2 = 1u << 5;
  constexpr unsigned kAvx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
  features.avx2_fma = (saved & kYmm) == kYmm && (b & kAvx2);
  features.avx512 = features.avx2_fma && (saved & kZmm) == kZmm && (b & kAvx512) == kAvx512;
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) features.avx512_bf16 = features.avx512 && (a & kAvx512Bf16);
  return features;
}
#elif defined(__aarch64__)
CpuFeatures detect() {
  CpuFeatures features;
  features.neon = true;  // part of the architecture's baseline
  return features;
}
#else
CpuFeatures detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace pnf
