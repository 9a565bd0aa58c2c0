// The kernels of a cell in training. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/pool.inl"
#include "kernels/cell/blocks.inl"
#include "kernels/cell/moments.inl"
#include "kernels/cell/planes.inl"
#include "kernels/cell/correlate.inl"
#include "kernels/cell/separable.inl"
#include "kernels/cell/entries.inl"
// clang-format on

PNF_CELL_ENTRIES(InFloats, float)
PNF_CELL_ENTRIES(InFloats, Bf16)
