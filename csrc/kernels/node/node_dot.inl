// The node kernel on states and weights of half precision, where a word's two products take one instruction. Include after
// a vocabulary from kernels/simd that has `dot`, with PNF_ISA naming its namespace.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/activation.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/depthwise_stage.inl"
#include "kernels/node/pool.inl"
#include "kernels/node/rows.inl"
#include "kernels/node/pairs.inl"
#include "kernels/node/dots.inl"
// clang-format on

namespace pnf::PNF_ISA {
namespace {

struct DotPanels : PairPanels<PanelsInTurn<Bf16, kBlock / 2>>, Dots {};

}  // namespace

void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch) {
  node_rows_with<DotPanels>(node, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
