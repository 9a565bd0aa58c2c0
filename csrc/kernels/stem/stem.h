// The stem: 3x3 convolution, stride 2, padding 1, three colours to `blocks` * 16 channels, from the pixels as the
// caller has them.
//
//   out[y][x][co] = bias[co] + sum_{ky, c, kx} weights[co][ky][c][kx] * pixel(c, 2 y + ky - 1, 2 x + kx - 1)
//
// A float image is planar RGB and already normalised; a uint8 image is interleaved, and its value v of colour c is
// read as (v - mean[c]) * scale[c]. Pixels outside the image are zero after that normalisation. With `mirror` the
// image is read from right to left. Batch normalisation is already in weights and bias.
// Error: at most 30 * 2^-24 of the sum of absolute products; in half precision the pixels, the weights and the result may
// be rounded to Bf16, each by 2^-8.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/isas.h"
#include "kernels/layout.h"

namespace pnf {

struct Image {
  const float* planar;              // [3][height][width], or null
  const std::uint8_t* interleaved;  // [height][width][3], or null
  bool mirror;
};

template <typename State>
struct StemOf {
  int height, width;  // of the image; the output is (height + 1) / 2 x (width + 1) / 2
  int blocks;
  const float* weights;  // [blocks][ky][colour][kx][16]
  const float* bias;     // [blocks][16]
  const float* mean;     // [3], in pixel values
  const float* scale;    // [3]
  bool bgr;              // the interleaved colours come as blue, green, red
  State* output;         // row y of block b at output + b * block_stride + y * out_width * 16
  std::ptrdiff_t block_stride;
};

using Stem = StemOf<float>;

// Floats of scratch that stem_rows needs, in either precision, for the image's width and the blocks.
std::size_t stem_scratch(const Stem& stem);

#define PNF_DECLARE(isa)                                                                                    \
  namespace isa {                                                                                           \
  void stem_rows(const Stem& stem, const Image& image, int row_begin, int row_end, float* scratch);         \
  void stem_rows(const StemOf<Bf16>& stem, const Image& image, int row_begin, int row_end, float* scratch); \
  }
PNF_EACH_ISA(PNF_DECLARE)
#undef PNF_DECLARE

#define PNF_DECLARE_BF16(isa)                                                                               \
  namespace isa {                                                                                           \
  void stem_rows(const StemOf<Bf16>& stem, const Image& image, int row_begin, int row_end, float* scratch); \
  }
PNF_EACH_BF16_ISA(PNF_DECLARE_BF16)
#undef PNF_DECLARE_BF16

}  // namespace pnf
