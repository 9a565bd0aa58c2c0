#include "kernels/cpu_features.h"

#if (defined(__arm__) || defined(__aarch64__)) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
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

// Linux gives a process the 8 KiB of tiles for each thread only if it asks for them (arch_prctl, ARCH_REQ_XCOMP_PERM);
// it refuses where it is too old to know the request, where a filter forbids the call, and where a signal stack has no
// room for them. Elsewhere nobody asks.
bool request_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  CpuReport report;
  unsigned a, b, c, d;
  if (__get_cpuid(0, &a, &b, &c, &d)) report.vendor_ebx = b;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return {};
  report.leaf1_eax = a;
  report.leaf1_ecx = c;
  constexpr unsigned kOsxsave = 1u << 27;
  if (c & kOsxsave) report.saved_registers = saved_registers();
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    report.leaf7_ebx = b;
    report.leaf7_edx = d;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) report.leaf7_1_eax = a;
  }
  constexpr unsigned kTileInfo = 0x1d;
  if (__get_cpuid_count(kTileInfo, 1, &a, &b, &c, &d)) {
    report.tile_bytes = b & 0xffff;
    report.tiles = b >> 16;
    report.tile_rows = c & 0xffff;
  }
  return features_of(report, request_tiles);
}
#elif defined(__aarch64__)
CpuFeatures detect() {
  CpuFeatures features;
  features.neon = true;  // part of the architecture's baseline
#if defined(__linux__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16
  features.neon_bf16 = (getauxval(AT_HWCAP2) & kBf16) != 0;
#endif
  return features;
}
#elif defined(__arm__) && defined(__linux__)
CpuFeatures detect() {
  CpuFeatures features;
  constexpr unsigned long kNeon = 1ul << 12, kFusedMultiplyAdd = 1ul << 16;  // HWCAP_NEON, HWCAP_VFPv4
  features.neon = (getauxval(AT_HWCAP) & (kNeon | kFusedMultiplyAdd)) == (kNeon | kFusedMultiplyAdd);
  return features;
}
#else
CpuFeatures detect() { return {}; }
#endif

// The first of the three parts of a vendor's name.
constexpr unsigned kAuthenticAmd = 0x68747541, kGenuineIntel = 0x756e6547;

// Zen 4 is of AMD's family 0x19, Zen 5 of 0x1a. The family's upper part counts where the lower one is full.
bool is_amd_before_zen5(const CpuReport& report) {
  constexpr unsigned kZen5 = 0x1a;
  const unsigned lower = report.leaf1_eax >> 8 & 0xf, upper = report.leaf1_eax >> 20 & 0xff;
  return report.vendor_ebx == kAuthenticAmd && (lower == 0xf ? lower + upper : lower) < kZen5;
}

constexpr bool has(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }

}  // namespace

CpuFeatures features_of(const CpuReport& report, bool (*request_tiles)()) {
  constexpr unsigned kFma = 1u << 12, kAvx = 1u << 28;
  constexpr unsigned kAvx2 = 1u << 5, kAvx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
  constexpr unsigned kAvx512Bf16 = 1u << 5, kAmx = (1u << 22) | (1u << 24);                         // BF16, TILE
  constexpr unsigned kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  constexpr unsigned kSse = (1u << 9) | (1u << 19), kSha = 1u << 29;  // SSSE3, SSE4.1
  const unsigned saved = report.saved_registers;
  CpuFeatures features;
  features.sha = has(report.leaf1_ecx, kSse) && has(report.leaf7_ebx, kSha);
  features.avx2_fma = has(saved, kYmm) && has(report.leaf1_ecx, kFma | kAvx) && has(report.leaf7_ebx, kAvx2);
  features.avx512 = features.avx2_fma && has(saved, kZmm) && has(report.leaf7_ebx, kAvx512);
  features.wide_units = features.avx512 && !is_amd_before_zen5(report);
  features.avx512_bf16 = features.avx512 && has(report.leaf7_1_eax, kAvx512Bf16);
  // Intel's cores begin a product of 16 pairs every second cycle, and two products of 16 floats in each (measured on
  // Emerald Rapids: 89 and 179 GFLOP/s).
  features.slow_pairs = features.avx512_bf16 && report.vendor_ebx == kGenuineIntel;
  const bool shapes = report.tiles >= 8 && report.tile_rows >= 16 && report.tile_bytes == 64;
  if (features.avx512_bf16 && has(report.leaf7_edx, kAmx) && shapes) {
    features.amx_bf16 = has(saved, kTiles) && request_tiles();
    features.tiles_denied = !features.amx_bf16;
  }
  return features;
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace pnf
