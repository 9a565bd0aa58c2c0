// The class blocks of the margin softmax: what one thread does with its range of the kernel's columns.
//
//   c[n][j]  = <e_n, w_j>               e_n, w_j: embedding n and column j of the kernel, divided by their lengths
//   z[n][j]  = scale * c[n][j]          for classes j other than the label; the caller applies margins to the label's
//   forward    row_max[n] = max_j z[n][j], row_sum[n] = sum_j exp(z[n][j] - row_max[n]), both without the label, and
//              cosine[n] = c[n][label n], clamped to [-1, 1]
//   backward   g[n][j] = row_scale[n] * exp(z[n][j] - row_shift[n]), 0 for the label
//              row_sums[n] = sum_j g[n][j] w_j, from which the caller removes the part along e_n
//              grad_kernel[j] = (sum_n g[n][j] e_n - its part along w_j + sum_(n: label n = j) t_n (e_n - c w_j))
//                               / |kernel_j|
//              label_rows[n] = t_n (w_label - c e_n), t_n = grad_cosine[n]
//
// A column no longer than kMarginEpsilon counts as zero: its cosines and its gradient are 0. The label's terms are
// computed in float64, because t_n grows without bound, and its factor vanishes, as c approaches -1 or 1; cosines of
// other classes exceed 1 by rounding at most. Logits exist for kMarginSamples samples and one block of classes only.
//
// Layouts: kernel [dims][classes], float32 or bfloat16, row-major; the others as named below, row-major. No pointer
// needs alignment. Errors, with u = 2^-24: c within (dims + 6) u; exp within 4 u of its value at its rounded argument
// (arguments below -87 count as -87, which is absolutely within 2^-125); sums over samples within (samples + 4) u, and
// over classes within (classes + 4) u, of the sum of absolute products. bfloat16 gradients are rounded once, to
// nearest even.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/isas.h"

namespace pnf {

inline constexpr double kMarginEpsilon = 1e-12;
inline constexpr int kMarginSamples = 256;
inline constexpr int kMarginPanel = 32;  // a multiple of every set's tile of classes

struct MarginHead {
  int samples, dims;
  std::ptrdiff_t classes;
  const float* embedding;  // [samples][dims], not normalised
  const float* unit_rows;  // e_n: [samples][row_stride]
  std::ptrdiff_t row_stride;
  const double* inverse_norm;  // [samples]: 1 / |embedding n|, or 0
  const void* kernel;
  bool bf16;
  float scale;
  int labelled;               // samples whose label is a class
  const int* labelled_rows;   // [labelled]: these samples in the order of their labels
  const std::int64_t* label;  // [samples]
};

struct MarginForward {
  float* row_max;   // [samples]
  double* row_sum;  // [samples]
  double* cosine;   // [samples]: written where the label lies in the range
};

struct MarginBackward {
  const float* row_shift;     // [samples]
  const float* row_scale;     // [samples]
  const double* grad_cosine;  // [samples]
  void* grad_kernel;          // as the kernel
  float* row_sums;            // [samples][margin_padded_dims]
  float* label_rows;          // [samples][dims]: written where the label lies in the range
};

// `dims` rounded up to whole panels.
int margin_padded_dims(int dims);

// Classes that are worked on at a time; the ranges given to the functions below start at a multiple.
int margin_block(int dims);

// Floats of scratch of one thread, whose products take floats or pairs of bfloat16.
std::size_t margin_scratch(int samples, int dims, bool pairs);

// margin_forward and margin_backward return -1, or a column of the kernel whose length is not finite; outputs are then
// incomplete. margin_exp is the exponential alone, for tests; `count` is a multiple of kBlock.
#define PNF_DECLARE(isa)                                                                                             \
  namespace isa {                                                                                                    \
  long margin_forward(const MarginHead& head, const MarginForward& out, std::ptrdiff_t begin, std::ptrdiff_t end,    \
                      float* scratch);                                                                               \
  long margin_backward(const MarginHead& head, const MarginBackward& args, std::ptrdiff_t begin, std::ptrdiff_t end, \
                       float* scratch);                                                                              \
  void margin_exp(const float* x, int count, float* out);                                                            \
  }
PNF_EACH_TRAINING_ISA(PNF_DECLARE)
#undef PNF_DECLARE

// The same with products of pairs of bfloat16: e_n, w_j and g are rounded, once each, where they are multiplied, and
// their products summed in float32. Gradients are still made perpendicular to the unrounded e_n and w_j.
namespace avx512_bf16 {
long margin_forward(const MarginHead& head, const MarginForward& out, std::ptrdiff_t begin, std::ptrdiff_t end,
                    float* scratch);
long margin_backward(const MarginHead& head, const MarginBackward& args, std::ptrdiff_t begin, std::ptrdiff_t end,
                     float* scratch);
}  // namespace avx512_bf16

}  // namespace pnf
