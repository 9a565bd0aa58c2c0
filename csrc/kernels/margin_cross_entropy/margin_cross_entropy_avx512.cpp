#include "kernels/simd/avx512.h"
#define PNF_ISA avx512
#include "kernels/margin_cross_entropy/margin_cross_entropy.inl"
