#include "kernels/simd/wasm128.h"
#define PNF_ISA wasm128
#include "kernels/tail/tail.inl"
