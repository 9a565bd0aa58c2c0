// What the machine can do at most, for rooflines: multiply-adds from registers, and reading.
#pragma once
#include "kernels/isas.h"

namespace pnf {

// probe_fma: the number of multiply-adds done. probe_read: adds `floats` floats up, a multiple of 128. `sink` takes one
// register.
#define PNF_DECLARE(isa)                                        \
  namespace isa {                                               \
  double probe_fma(long iterations, float* sink);               \
  void probe_read(const float* data, long floats, float* sink); \
  }
PNF_EACH_TRAINING_ISA(PNF_DECLARE)
#undef PNF_DECLARE

// The same of products of pairs of Bf16.
#define PNF_DECLARE_BF16(isa)                     \
  namespace isa {                                 \
  double probe_fma(long iterations, float* sink); \
  }
PNF_EACH_BF16_ISA(PNF_DECLARE_BF16)
#undef PNF_DECLARE_BF16

}  // namespace pnf
