#include "kernels/simd/amx_bf16.h"
#define PNF_ISA amx_bf16
#include "kernels/node/node_tiles.inl"
