#include "kernels/simd/scalar.h"
#define PNF_ISA scalar
#include "kernels/margin_cross_entropy/margin_cross_entropy.inl"
