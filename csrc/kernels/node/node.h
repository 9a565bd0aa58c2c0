// One fused step of a cell: the sum of up to kMaxTerms operations, each reading another state.
//
//   out[co] = bias[co] + sum over terms of
//     kDepthwise        sum_ci pw[ci][co] * middle(dw_kxk(act(in)))[ci]   zero padding k / 2
//     kPointwise        sum_ci pw[ci][co] * act(in)[ci]                   pixel (y * stride + shift, x * stride + shift)
//     kMaxPool          scale[co] * max_3x3(in)[co]                       padding ignored
//     kAvgPool          scale[co] * avg_3x3(in)[co]                       padding not counted
//     kIdentity         in[co]
//     kPooledPointwise  sum_ci pw[ci][co] * act(max_2x2(in))[ci]          stride 2, of an even height and width
//     kDepthwisePooled  sum_ci pw[ci][co] * max_2x2(middle(dw_kxk(act(in))))[ci]    stride 2, of an even height and width
//     kDepthwiseAlone   middle(dw_kxk(act(in)))[co]
//     kUpsampled        in[co]                                            pixel (y / 2, x / 2)
//
//   act(x) = min(prelu(x), cap), middle(x) = min(prelu(x + bias), cap)    with slopes, caps and biases of the term
//
// Activations belong to who reads a state: states are sums. ReLU has slopes of 0, ReLU6 caps of 6 besides. (An infinity
// times a slope of 0 is no number.) Caps are positive. Without `cap`, and without `middle`, a term has none.
//
// Batch normalisation is already in the weights and the bias. A node of the paper has two terms; the
// pre-processing of a cell has one kPointwise term per state of the concatenation it reads, so the
// concatenation never exists; a factorised reduction is two strided kPointwise terms over disjoint channels.
//
// In half precision, states are Bf16 and the weights of the convolutions are pairs, two taps of a column (the last tap of
// an odd window has a zero before it) or two input channels in a word:
//   depthwise  [blocks][(kernel + 1) / 2][kernel][16]        pointwise  [out_blocks][blocks][8][16 out]
// A kernel may read a row beside a window with weights of zero, which what is not finite gets through. Every sum is fp32;
// what goes to the pointwise product may be rounded to Bf16 on the way (PReLU's result and the depthwise result, each by
// 2^-8), and the sum is when it is stored.
//
// Layout: see layout.h. No pointer needs alignment. Every sum is accumulated in fp32 with fused multiply-adds
// (scalar: separately rounded). To first order, the error of an output is at most
// (k * k + 16 * panels + terms + 6) * 2^-24 of its sum of absolute products, with k the widest window (pooling: 3)
// and `panels` the input blocks of all convolutions together.
#pragma once
#include <cstddef>

#include "kernels/isas.h"
#include "kernels/layout.h"

namespace pnf {

inline constexpr int kMaxTerms = 16;

enum class TermKind : int {
  kPointwise = 0,
  kDepthwise = 1,
  kMaxPool = 2,
  kAvgPool = 3,
  kIdentity = 4,
  kPooledPointwise = 5,
  kDepthwiseAlone = 6,
  kUpsampled = 7,
  kDepthwisePooled = 8
};

template <typename State>
struct TermOf {
  TermKind kind;
  int kernel;                 // depthwise: 3, 5 or 7
  int stride;                 // 1 or 2
  int shift;                  // kPointwise: offset in pixels of both coordinates
  int height, width;          // of the input
  int blocks;                 // of input channels
  int first_out, out_blocks;  // the output blocks a convolution contributes to
  const State* input;         // row y of block b at input + b * block_stride + y * width * 16
  std::ptrdiff_t block_stride;
  const float* slope;      // [blocks][16]: PReLU
  const float* depthwise;  // [blocks][kernel * kernel][16]
  const float* pointwise;  // [out_blocks][blocks][16 in][16 out]
  const float* scale;      // [blocks][16]: pooling
  const float* cap;        // [blocks][16], or null
  const float* middle;     // [blocks][3][16]: bias, slope, cap; or null, but for kDepthwiseAlone
};

using Term = TermOf<float>;

template <typename State>
struct NodeOf {
  int height, width;  // of the output
  int blocks;         // of output channels
  State* output;      // row y of block b at output + b * block_stride + y * width * 16
  std::ptrdiff_t block_stride;
  const float* bias;  // [blocks][16]
  int terms;
  TermOf<State> term[kMaxTerms];
  bool wide_units = true;  // CpuFeatures::wide_units, by which the kernels choose among ways that are equally right
};

using Node = NodeOf<float>;

// Floats of scratch that node_rows needs, in either precision; the pointers in `node` are not read.
std::size_t node_scratch(const Node& node);

// Computes output rows [row_begin, row_end).
#define PNF_DECLARE(isa)                                                                \
  namespace isa {                                                                       \
  void node_rows(const Node& node, int row_begin, int row_end, float* scratch);         \
  void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch); \
  }
PNF_EACH_ISA(PNF_DECLARE)
#undef PNF_DECLARE

#define PNF_DECLARE_BF16(isa)                                                           \
  namespace isa {                                                                       \
  void node_rows(const NodeOf<Bf16>& node, int row_begin, int row_end, float* scratch); \
  }
PNF_EACH_BF16_ISA(PNF_DECLARE_BF16)
#undef PNF_DECLARE_BF16

}  // namespace pnf
