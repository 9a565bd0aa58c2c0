// Training a cell: what one thread does with one image. A state of the cell is a sum of operations t that are
// normalised over the batch, each reading another state x and adding to the channels from first_out(t) on:
//
//   out = sum_t (scale_t * p_t + shift_t) + sum of residuals
//
// where scale and shift are batch normalisation with the batch's own moments, which the caller combines from those of
// its images, and p_t, the operation's products, are
//
//   kSeparable  p[o] = sum_c pointwise[o][c] f[c],  a = prelu(x) on the concatenation of the operation's parts,
//               f[c] = sum_(ky,kx) depthwise[c][ky][kx] a[c]      k x k, zero padding k / 2, stride 1 or 2
//   kMaxPool    p = max_3x3(x)                                    padding ignored
//   kAvgPool    p = avg_3x3(x)                                    padding not counted
//   kNormalize  p = x
//
// A kernel of 1 has its depthwise factor in `pointwise`: then f is a, at pixel (y * stride + offset,
// x * stride + offset), and grad_pointwise is the gradient of the product of both weights. With g the gradient of out,
// the gradient of p is, per output channel,
//
//   dp = by_gradient * g + by_product * (p - mean) + constant
//
// from which cell_gradient computes those of the weights and of x. Anything that is an affine function of p per channel
// serves as well as p itself, with other factors: the operation's result, scale * p + shift, can be read from a sum that
// has no other part, or is what remains of a sum without the others. The derivative of prelu is the slope where x is not
// positive; that of the maximum belongs to the first pixel that has it.
//
// Layouts: inputs, gradients and outputs are channels-last, [height][width][channels] of one image; `products` is
// [blocks][out_height * out_width][16], surplus channels zero (layout.h). A part's channels are padded to whole blocks,
// so that blocks = parts * part_blocks. No pointer needs alignment.
//
// In half precision states, products and gradients of states are Bf16: half the memory. Sums, moments, normalisation and
// the gradients of weights are not. Where a set multiplies `pairs`, the weights are pairs of Bf16 as in kernels/node/node.h
// (`transposed` like `pointwise`, two output channels in a word), and what goes into a product is rounded to Bf16 on the
// way: activations, f, dp and the gradient of f. Elsewhere weights and all that is on the way are floats.
//
// Errors, with u = 2^-24, of the sum of absolute products: f within (k * k + 2) u, p within (16 * blocks + 1) u of its
// own products; moments and gradients of weights are summed in fp32 over one row or a chunk of at most 224 pixels, then
// in float64. In half precision each rounding to Bf16 adds 2^-9.
#pragma once
#include <cstddef>

#include "kernels/layout.h"

namespace pnf {

enum class CellKind : int { kSeparable = 0, kMaxPool = 1, kAvgPool = 2, kNormalize = 3 };

struct CellTerm {
  CellKind kind;
  int height, width;          // of the input
  int out_height, out_width;  // ceil(input / stride)
  int kernel;                 // 1, 3, 5 or 7; 3 for pooling, 1 for kNormalize
  int stride;                 // 1 or 2
  int offset;                 // 0, or 1 with a kernel of 1
  int parts, part_channels, part_blocks, blocks;
  int out_channels, out_blocks;
  // For kSeparable only. In pairs, depthwise and reversed are [blocks][(kernel + 1) / 2][kernel][16], pointwise
  // [out_blocks][blocks][8][16 out], transposed [blocks][out_blocks][8][16 in].
  const float* slope;       // [blocks][16]
  const float* depthwise;   // [blocks][kernel * kernel][16]; kernel > 1
  const float* reversed;    // the same, taps in reverse order
  const float* pointwise;   // [out_blocks][blocks][16 in][16 out]
  const float* transposed;  // [blocks][out_blocks][16 out][16 in]
};

// Values of one image: channel c of a pixel at data + (c / 16) * block + pixel * step + c % 16.
template <typename State>
struct ImageViewOf {
  const State* data;
  std::ptrdiff_t step, block;
  bool padded;  // the surplus channels of a last block are there, and zero
};

// One operation's share of the output: its channels [0, channels) go to those from first_out on.
template <typename State>
struct NormalizedTermOf {
  ImageViewOf<State> products;
  const float* scale;  // [blocks][16]
  const float* shift;  // [blocks][16]
  int first_out, channels;
};

template <typename State>
struct NormalizedSumOf {
  int pixels, channels;
  const NormalizedTermOf<State>* terms;
  int term_count;
  const State* const* residuals;  // [residual_count], each [pixels][channels]
  int residual_count;
  bool accumulate;  // add to what `out` holds
  State* out;       // [pixels][channels]
};

// An operation's slice of the output's gradient: [pixels][stride], channels [first, first + term.out_channels).
template <typename State>
struct OutputGradientOf {
  const State* data;
  std::ptrdiff_t stride;
  int first;
};

template <typename State>
struct CellGradientOf {
  const State* const* input;  // [parts]
  OutputGradientOf<State> gradient;
  ImageViewOf<State> products;  // those themselves for kMaxPool
  const float* mean;            // [out_blocks][16], and so the three factors of dp; zero in surplus channels
  const float* by_gradient;
  const float* by_product;
  const float* constant;
  State* const* grad_input;  // [parts]
  // [parts], each null or what a part's gradient is added to: it may be grad_input itself.
  const State* const* before;
  int next;                // as in cell_products
  double* grad_pointwise;  // [out_blocks][blocks][16 out][16 in]: added to, like the next two; for kSeparable
  double* grad_depthwise;  // [blocks][kernel * kernel][16]; where filters_plane()
  double* grad_slope;      // [blocks][16]
};

using ImageView = ImageViewOf<float>;
using NormalizedTerm = NormalizedTermOf<float>;
using NormalizedSum = NormalizedSumOf<float>;
using OutputGradient = OutputGradientOf<float>;
using CellGradient = CellGradientOf<float>;

// Whether an operation has a depthwise convolution over a window, with a result of its own.
bool filters_plane(const CellTerm& term);

// Floats of scratch for each of the functions below, in either precision.
std::size_t cell_scratch(const CellTerm& term);

// `next` says which image the caller works on next, counted from this one in a batch that lies image after image; 0 for
// none. Nothing depends on it but the cache.
//
// cell_products: all kinds but kNormalize, whose products are its input; `filtered`, [blocks][pixels][16] floats, is used
// where filters_plane().
// normalize_sum: the products of the first term may lie in `out` itself, if all terms have all of 16 channels and nothing
// is accumulated.
// channel_moments: per channel the mean, and the sum of squared distances from it.
// remaining_result: what the terms and residuals of `others` leave of `sum`, [pixels][channels]; `others.out` is
// [blocks][pixels][16], surplus channels zero, and every term of it has all channels.
// gradient_moments: per channel the sum of g, and of g * (p - mean).
#define PNF_DECLARE(isa, State)                                                                                     \
  namespace isa {                                                                                                   \
  void cell_products(const CellTerm& term, const State* const* input, int next, float* filtered, State* products,   \
                     float* scratch);                                                                               \
  void channel_moments(const ImageViewOf<State>& products, int channels, int pixels, double* mean, double* square); \
  void normalize_sum(const NormalizedSumOf<State>& args);                                                           \
  void remaining_result(const NormalizedSumOf<State>& others, const State* sum);                                    \
  void gradient_moments(const CellTerm& term, const OutputGradientOf<State>& gradient,                              \
                        const ImageViewOf<State>& products, const float* mean, double* sum, double* product_sum);   \
  void cell_gradient(const CellTerm& term, const CellGradientOf<State>& args, float* scratch);                      \
  }
PNF_DECLARE(scalar, float)
PNF_DECLARE(scalar, Bf16)
PNF_DECLARE(avx2, float)
PNF_DECLARE(avx2, Bf16)
PNF_DECLARE(avx512, float)
PNF_DECLARE(avx512, Bf16)
PNF_DECLARE(avx512_bf16, Bf16)
PNF_DECLARE(neon, float)
PNF_DECLARE(neon, Bf16)
#undef PNF_DECLARE

}  // namespace pnf
