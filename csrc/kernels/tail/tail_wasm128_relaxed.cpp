#include "kernels/simd/wasm128_relaxed.h"
#define PNF_ISA wasm128_relaxed
#include "kernels/tail/tail.inl"
