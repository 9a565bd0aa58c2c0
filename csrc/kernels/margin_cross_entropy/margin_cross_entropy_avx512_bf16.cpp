#include "kernels/simd/avx512_bf16.h"
#define PNF_ISA avx512_bf16
#define PNF_MARGIN_PAIRS
#include "kernels/margin_cross_entropy/margin_cross_entropy.inl"
