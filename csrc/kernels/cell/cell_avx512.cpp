#include "kernels/simd/avx512.h"
#define PNF_ISA avx512
#include "kernels/cell/cell.inl"
