// Training a cell over a batch, on several threads; kernels/cell has the equations.
//
// States are the cell's inputs and then its sums; a sum adds the normalised operations and the residuals that name it,
// which read states before it. Every sum takes two passes over the images, because the moments of the whole batch stand
// between the products and everything after them. Nothing but the states and the moments is kept from the forward to
// the backward call: the products are computed again.
#pragma once
#include <cstddef>
#include <vector>

#include "kernels/cell/cell.h"

namespace pnf {

struct CellState {
  int channels = 0, height = 0, width = 0;
};

// An operation and its weights in torch's layouts; channels_in = parts * channels of a state. The first three are null
// unless the kind is kSeparable; then out_channels is channels_in otherwise. Without normalisation the result is the
// products times gamma, there is no beta, and the operation has no moments.
struct CellOperation {
  CellKind kind;
  int sum;
  int first_state, parts;  // it reads the concatenation of the states [first_state, first_state + parts)
  int kernel, stride, offset;
  int first_out, out_channels;
  bool normalized;
  double epsilon;          // added to the variance
  const float* slope;      // [channels_in]
  const float* depthwise;  // [channels_in][kernel][kernel]
  const float* pointwise;  // [out_channels][channels_in]
  const float* gamma;      // [out_channels]
  const float* beta;       // [out_channels]
};

struct CellResidual {
  int sum, state;
};

struct Cell {
  int images = 0;  // at least 1
  int inputs = 0;
  std::vector<CellState> states;          // the inputs, then the sums
  std::vector<CellOperation> operations;  // in the order of their sums
  std::vector<CellResidual> residuals;
};

// States are floats or Bf16 (kernels/cell/cell.h); so are their gradients.
//
// states: [images][height][width][channels] of every state; the sums' are written.
// mean, variance: of each normalised operation's products over the batch, one operation after another; the variance is
// the biased one. Nothing depends on `threads`. Throws std::runtime_error when the forced instruction set is unavailable;
// std::bad_alloc.
template <typename State>
void cell_forward(const Cell& cell, int threads, const std::vector<State*>& states, double* mean, double* variance);

struct OperationGradient {
  float *slope, *depthwise, *pointwise, *gamma, *beta;  // as the operation's own; null as there
};

// grad_sums: of each sum, or null where nothing after the cell depends on it. grad_inputs are written. `mean` and
// `variance` as cell_forward gave them. Results depend on `threads` by the order of sums, not on how
// many came.
template <typename State>
void cell_backward(const Cell& cell, int threads, const std::vector<const State*>& states, const double* mean,
                   const double* variance, const std::vector<const State*>& grad_sums,
                   const std::vector<State*>& grad_inputs, const std::vector<OperationGradient>& gradients);

}  // namespace pnf
