// The stem kernel. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
//
// Three image rows at a time are normalised into zero-padded rows, in the caller's order of colours and mirrored where that
// is asked for, so that the convolution has no borders and one set of weights serves float and uint8 images, in either
// colour order: only the addresses differ.
#include "kernels/stem/stem.h"

namespace pnf::PNF_ISA {
namespace {

constexpr int kVecs = kBlock / kLanes;

// Floats of one staged row of all colours.
template <typename State>
int staged_floats(const StemOf<State>& stem) {
  return 3 * (stem.width + 2);
}

template <typename State>
void stage_planar(const StemOf<State>& stem, const float* image, int iy, float* out) {
  for (int c = 0; c < 3; ++c) {
    const float* in = image + (static_cast<std::ptrdiff_t>(c) * stem.height + iy) * stem.width;
    *out++ = 0.0f;
    for (int x = 0; x < stem.width; ++x) *out++ = in[x];
    *out++ = 0.0f;
  }
}

template <typename State>
void stage_interleaved(const StemOf<State>& stem, const std::uint8_t* image, int iy, float* out) {
  // Three registers hold every phase of the period of three colours.
  float minus_mean[3 * kLanes], scale[3 * kLanes];
  for (int i = 0; i < 3 * kLanes; ++i) {
    const int c = stem.bgr ? 2 - i % 3 : i % 3;
    minus_mean[i] = -stem.mean[c];
    scale[i] = stem.scale[c];
  }
  const int count = 3 * stem.width;
  const std::uint8_t* in = image + static_cast<std::ptrdiff_t>(iy) * count;
  for (int c = 0; c < 3; ++c) out[c] = out[3 + count + c] = 0.0f;
  out += 3;
  int i = 0;
  for (; i + 3 * kLanes <= count; i += 3 * kLanes) {
    for (int phase = 0; phase < 3 * kLanes; phase += kLanes) {
      store(out + i + phase, mul(add(load_u8(in + i + phase), load(minus_mean + phase)), load(scale + phase)));
    }
  }
  for (; i < count; ++i) out[i] = (static_cast<float>(in[i]) + minus_mean[i % 3]) * scale[i % 3];
}

// The pixels of a row the other way round, each of so many floats.
inline void reverse_pixels(float* row, int width, int floats) {
  float* right = row + static_cast<std::ptrdiff_t>(width - 1) * floats;
  for (float* left = row; left < right; left += floats, right -= floats) {
    for (int i = 0; i < floats; ++i) {
      const float pixel = left[i];
      left[i] = right[i];
      right[i] = pixel;
    }
  }
}

// Row iy of the image lies in slot (iy + 3) % 3.
template <typename State>
void stage_row(const StemOf<State>& stem, const Image& image, int iy, float* ring) {
  float* out = ring + static_cast<std::ptrdiff_t>((iy + 3) % 3) * staged_floats(stem);
  if (iy < 0 || iy >= stem.height) {
    for (int i = 0; i < staged_floats(stem); ++i) out[i] = 0.0f;
  } else if (image.planar != nullptr) {
    stage_planar(stem, image.planar, iy, out);
    for (int c = 0; image.mirror && c < 3; ++c) reverse_pixels(out + c * (stem.width + 2) + 1, stem.width, 1);
  } else {
    stage_interleaved(stem, image.interleaved, iy, out);
    if (image.mirror) reverse_pixels(out + 3, stem.width, 3);
  }
}

// `planes` points, per row and colour, at the first tap of output pixel 0; Step is the distance of a pixel from the
// next one to the right.
template <int P, int NB, int Step, typename State>
PNF_INLINE void stem_tile(const StemOf<State>& stem, const float* const* planes, int block, int x, State* output) {
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
    const float* a = planes[j] + 2 * x * Step;
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
        const Vec value = splat(a[(2 * p + kx) * Step]);
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

template <int NB, int Step, typename State>
void stem_row(const StemOf<State>& stem, const float* const* planes, int block, int width, State* output) {
  int x = 0;
  for (; x + kTilePixels <= width; x += kTilePixels) {
    stem_tile<kTilePixels, NB, Step>(stem, planes, block, x, output);
  }
  if constexpr (kTilePixels > 2) {
    for (; x + 2 <= width; x += 2) stem_tile<2, NB, Step>(stem, planes, block, x, output);
  }
  for (; x < width; ++x) stem_tile<1, NB, Step>(stem, planes, block, x, output);
}

template <int Step, typename State>
void stem_blocks(const StemOf<State>& stem, const float* const* planes, int width, State* output) {
  int block = 0;
  for (; block + kTileBlocks <= stem.blocks; block += kTileBlocks) {
    stem_row<kTileBlocks, Step>(stem, planes, block, width, output + block * stem.block_stride);
  }
  for (; block < stem.blocks; ++block) {
    stem_row<1, Step>(stem, planes, block, width, output + block * stem.block_stride);
  }
}

template <typename State>
void stem_rows_of(const StemOf<State>& stem, const Image& image, int row_begin, int row_end, float* scratch) {
  const bool planar = image.planar != nullptr;
  const int out_width = (stem.width + 1) / 2;
  const int plane = planar ? stem.width + 2 : 1;
  int next = 2 * row_begin - 1;
  for (int y = row_begin; y < row_end; ++y) {
    for (; next <= 2 * y + 1; ++next) stage_row(stem, image, next, scratch);
    const float* planes[9];
    for (int j = 0; j < 9; ++j) {
      const int c = !planar && stem.bgr ? 2 - j % 3 : j % 3;
      planes[j] = scratch + (2 * y + 2 + j / 3) % 3 * staged_floats(stem) + c * plane;
    }
    State* row = stem.output + static_cast<std::ptrdiff_t>(y) * out_width * kBlock;
    planar ? stem_blocks<1>(stem, planes, out_width, row) : stem_blocks<3>(stem, planes, out_width, row);
  }
}

}  // namespace

void stem_rows(const Stem& stem, const Image& image, int row_begin, int row_end, float* scratch) {
  stem_rows_of(stem, image, row_begin, row_end, scratch);
}

void stem_rows(const StemOf<Bf16>& stem, const Image& image, int row_begin, int row_end, float* scratch) {
  stem_rows_of(stem, image, row_begin, row_end, scratch);
}

}  // namespace pnf::PNF_ISA
