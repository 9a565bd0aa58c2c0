// What the machine can do at most, for rooflines: fused multiply-adds from registers.
#pragma once

namespace pnf {

// Returns the number of multiply-adds done; `sink` takes one register.
#define PNF_DECLARE(isa)                          \
  namespace isa {                                 \
  double probe_fma(long iterations, float* sink); \
  }
PNF_DECLARE(scalar)
PNF_DECLARE(avx2)
PNF_DECLARE(avx512)
PNF_DECLARE(neon)
#undef PNF_DECLARE

}  // namespace pnf
