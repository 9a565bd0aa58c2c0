// The stem kernel. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
//
// Three image rows at a time are normalised into padded planes, so that the convolution has no borders and one set
// of weights serves float and uint8 images, in either colour order, mirrored or not.
#include "kernels/stem/stem.h"

namespace pnf::PNF_ISA {
namespace {

constexpr int kVecs = kBlock / kLanes;

// plane(c) = ring + (iy % 3 * 3 + c) * (width + 2); pixel x at index x + 1.
void stage_row(const Stem& stem, const Image& image, int iy, float* ring) {
  const int padded = stem.width + 2;
  float* planes = ring + static_cast<std::ptrdiff_t>((iy + 3) % 3) * 3 * padded;
  const int first = image.mirror ? stem.width : 1;
  const int step = image.mirror ? -1 : 1;
  for (int c = 0; c < 3; ++c) {
    float* out = planes + c * padded;
    out[0] = 0.0f;
    out[padded - 1] = 0.0f;
    if (iy < 0 || iy >= stem.height) {
      for (int x = 1; x <= stem.width; ++x) out[x] = 0.0f;
      continue;
    }
    out += first;
    if (image.planar != nullptr) {
      const float* in = image.planar + (static_cast<std::ptrdiff_t>(c) * stem.height + iy) * stem.width;
      for (int x = 0; x < stem.width; ++x) out[x * step] = in[x];
    } else {
      const std::uint8_t* in =
          image.interleaved + static_cast<std::ptrdiff_t>(iy) * stem.width * 3 + (stem.bgr ? 2 - c : c);
      const float mean = stem.mean[c], scale = stem.scale[c];
      for (int x = 0; x < stem.width; ++x) out[x * step] = (static_cast<float>(in[x * 3]) - mean) * scale;
    }
  }
}

template <int P, int NB>
PNF_INLINE void stem_tile(const Stem& stem, const float* const* planes, int block, int x, float* output) {
  Vec acc[P][NB * kVecs];
  const float* weights = stem.weights + static_cast<std::ptrdiff_t>(block) * 27 * kBlock;
#pragma GCC unroll 32
  for (int v = 0; v < NB * kVecs; ++v) {
    const Vec bias = load(stem.bias + block * kBlock + v * kLanes);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) acc[p][v] = bias;
  }
#pragma GCC unroll 1
  for (int j = 0; j < 9; ++j) {
    const float* a = planes[j] + 2 * x;
#pragma GCC unroll 3
    for (int kx = 0; kx < 3; ++kx) {
      Vec w[NB * kVecs];
#pragma GCC unroll 2
      for (int b = 0; b < NB; ++b) {
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) {
          w[b * kVecs + v] = load(weights + (b * 27 + j * 3 + kx) * kBlock + v * kLanes);
        }
      }
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const Vec value = splat(a[2 * p + kx]);
#pragma GCC unroll 32
        for (int v = 0; v < NB * kVecs; ++v) acc[p][v] = fma(value, w[v], acc[p][v]);
      }
    }
  }
#pragma GCC unroll 2
  for (int b = 0; b < NB; ++b) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        store(output + b * stem.block_stride + (x + p) * kBlock + v * kLanes, acc[p][b * kVecs + v]);
      }
    }
  }
}

template <int NB>
void stem_row(const Stem& stem, const float* const* planes, int block, int width, float* output) {
  int x = 0;
  for (; x + kTilePixels <= width; x += kTilePixels) stem_tile<kTilePixels, NB>(stem, planes, block, x, output);
  if constexpr (kTilePixels > 2) {
    for (; x + 2 <= width; x += 2) stem_tile<2, NB>(stem, planes, block, x, output);
  }
  for (; x < width; ++x) stem_tile<1, NB>(stem, planes, block, x, output);
}

}  // namespace

void stem_rows(const Stem& stem, const Image& image, int row_begin, int row_end, float* scratch) {
  const int padded = stem.width + 2;
  const int out_width = (stem.width + 1) / 2;
  int next = 2 * row_begin - 1;
  for (int y = row_begin; y < row_end; ++y) {
    for (; next <= 2 * y + 1; ++next) stage_row(stem, image, next, scratch);
    const float* planes[9];
    for (int j = 0; j < 9; ++j) planes[j] = scratch + ((2 * y + 2 + j / 3) % 3 * 3 + j % 3) * padded;
    float* row = stem.output + static_cast<std::ptrdiff_t>(y) * out_width * kBlock;
    int block = 0;
    for (; block + kTileBlocks <= stem.blocks; block += kTileBlocks) {
      stem_row<kTileBlocks>(stem, planes, block, out_width, row + block * stem.block_stride);
    }
    for (; block < stem.blocks; ++block) {
      stem_row<1>(stem, planes, block, out_width, row + block * stem.block_stride);
    }
  }
}

}  // namespace pnf::PNF_ISA
