#include "kernels/simd/scalar.h"
#define PNF_ISA scalar
#include "kernels/cell/cell.inl"
