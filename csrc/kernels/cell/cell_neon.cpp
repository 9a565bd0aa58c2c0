#include "kernels/simd/neon.h"
#define PNF_ISA neon
#include "kernels/cell/cell.inl"
