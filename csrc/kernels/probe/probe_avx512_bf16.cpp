#include "kernels/simd/avx512_bf16.h"
#define PNF_ISA avx512_bf16
#include "kernels/probe/probe_pairs.inl"
