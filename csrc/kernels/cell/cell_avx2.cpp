#include "kernels/simd/avx2.h"
#define PNF_ISA avx2
#include "kernels/cell/cell.inl"
