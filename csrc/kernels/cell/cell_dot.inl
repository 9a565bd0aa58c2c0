// The kernels of a cell in training on states of half precision, where a word's two products take one instruction. Include
// after a vocabulary from kernels/simd that has `dot`, with PNF_ISA naming its namespace.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/activation.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/depthwise_stage.inl"
#include "kernels/node/pool.inl"
#include "kernels/node/rows.inl"
#include "kernels/node/half_panels.inl"
#include "kernels/node/pairs.inl"
#include "kernels/node/dots.inl"
#include "kernels/cell/blocks.inl"
#include "kernels/cell/moments.inl"
#include "kernels/cell/planes.inl"
#include "kernels/cell/correlate.inl"
#include "kernels/cell/separable_dot.inl"
#include "kernels/cell/entries.inl"
// clang-format on

PNF_CELL_ENTRIES(InPairs, Bf16)
