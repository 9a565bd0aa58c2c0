#include "kernels/simd/avx2.h"
#define PNF_ISA avx2
#include "kernels/margin_cross_entropy/margin_cross_entropy.inl"
