#include "kernels/simd/neon.h"
#define PNF_ISA neon
#include "kernels/margin_cross_entropy/margin_cross_entropy.inl"
