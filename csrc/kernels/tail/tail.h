// The end of the network: a depthwise convolution that covers the whole image, and the projection to the embedding.
//
//   global_depthwise  out[c] = bias[c] + sum_p weights[c][p] * min(prelu(in[p][c]), cap[c])
//   linear            out[n] = bias[n] + sum_k weights[k][n] * in[k]          (added to out with `accumulate`)
//
// Batch normalisation is already in weights and bias. Half precision is that of the states; weights are floats. Error: at most (pixels + 2) * 2^-24, (inputs + 2) * 2^-24, of
// the sum of absolute products.
#pragma once
#include <cstddef>

#include "kernels/isas.h"
#include "kernels/layout.h"

namespace pnf {

template <typename State>
struct GlobalDepthwiseOf {
  int pixels;
  const State* input;  // block b at input + b * block_stride, [pixels][16]
  std::ptrdiff_t block_stride;
  const float* slope;    // [blocks][16]
  const float* weights;  // [blocks][pixels][16]
  const float* bias;     // [blocks][16]
  State* output;         // [blocks][16]
  const float* cap;      // [blocks][16], positive; or null
};

using GlobalDepthwise = GlobalDepthwiseOf<float>;

template <typename State>
struct LinearOf {
  int inputs;            // a multiple of 16
  const State* input;    // [inputs]
  const float* weights;  // [outputs / 16, rounded up][inputs][16]
  const float* bias;     // [outputs / 16, rounded up][16]
  int outputs;
  float* output;  // [outputs]
  bool accumulate;
};

using Linear = LinearOf<float>;

#define PNF_DECLARE(isa)                                                                      \
  namespace isa {                                                                             \
  void global_depthwise(const GlobalDepthwise& args, int block_begin, int block_end);         \
  void linear(const Linear& args, int block_begin, int block_end);                            \
  void global_depthwise(const GlobalDepthwiseOf<Bf16>& args, int block_begin, int block_end); \
  void linear(const LinearOf<Bf16>& args, int block_begin, int block_end);                    \
  }
PNF_EACH_ISA(PNF_DECLARE)
#undef PNF_DECLARE

}  // namespace pnf
