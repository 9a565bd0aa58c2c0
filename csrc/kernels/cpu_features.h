// What this CPU can execute: the instructions it reports and the registers the operating system saves.
#pragma once

namespace pnf {

struct CpuFeatures {
  bool avx2_fma = false;      // AVX2 and FMA3, ymm saved
  bool avx512 = false;        // F, DQ, BW and VL on top of that, zmm and masks saved
  bool wide_units = false;    // multiplies 512 bits at a time, not 256 twice, as AMD's first cores with AVX-512 do
  bool avx512_bf16 = false;   // products of pairs of Bf16, on top of that
  bool slow_pairs = false;    // which take longer than as many products of floats, as on Intel's cores
  bool amx_bf16 = false;      // the same on tile registers, which the system saves and lets this process use
  bool tiles_denied = false;  // the CPU has those, and the system refused
  bool sha = false;           // instructions of SHA-256, and SSE4.1
  bool neon = false;
  bool neon_bf16 = false;  // products of pairs of Bf16, on top of that
};

// Asks the system for the tile registers where the CPU has them, once in a process.
const CpuFeatures& cpu_features();

// What an x86-64 CPU says of itself, by the registers of CPUID and XGETBV; 0 where there is no such leaf.
struct CpuReport {
  unsigned vendor_ebx = 0, leaf1_eax = 0, leaf1_ecx = 0, leaf7_ebx = 0, leaf7_edx = 0, leaf7_1_eax = 0;
  unsigned tile_rows = 0, tile_bytes = 0, tiles = 0;  // of palette 1
  unsigned saved_registers = 0;                       // XCR0
};

// What follows from it; request_tiles() is called at most once.
CpuFeatures features_of(const CpuReport& report, bool (*request_tiles)());

}  // namespace pnf
