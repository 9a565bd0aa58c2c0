// What this CPU can execute: the instructions it reports and the registers the operating system saves.
#pragma once

namespace pnf {

struct CpuFeatures {
  bool avx2_fma = false;     // AVX2 and FMA3, ymm saved
  bool avx512 = false;       // F, DQ, BW and VL on top of that, zmm and masks saved
  bool avx512_bf16 = false;  // products of pairs of Bf16, on top of that
  bool neon = false;
};

const CpuFeatures& cpu_features();

}  // namespace pnf
