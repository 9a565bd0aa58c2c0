#include "kernels/simd/neon_bf16.h"
#define PNF_ISA neon_bf16
#include "kernels/probe/probe_pairs.inl"
