#include "kernels/simd/scalar.h"
#define PNF_ISA scalar
#include "kernels/probe/probe.inl"
