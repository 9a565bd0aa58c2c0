// The stem of half precision as a product of pairs: the 27 taps of a pixel of the output are 32 input channels of it, the
// last five zeros. Include after a vocabulary from kernels/simd that has `dot`, pointwise.inl and a product (node/dots.inl,
// node/tiles.inl).
//
// Image rows are kept as Bf16, colours in turns as an interleaved image has them, zero-padded. A uint8 image is read less
// its mean, which is exact for the usual 127.5, and its scale multiplies the weights. Taps come in one
// order, mirrored or not, and whatever the order of colours.
#include "kernels/assert.h"
#include "kernels/stem/scratch.h"
#include "kernels/stem/stem.h"

namespace pnf::PNF_ISA {
namespace {

using ImageStem = StemOf<Bf16>;

constexpr int kTaps = 27, kRowTaps = 9;
constexpr int kWeightWords = 16 * kBlock;  // of a block of outputs

void stage_interleaved(const ImageStem& stem, const std::uint8_t* in, Bf16* out) {
  // Three vectors hold every phase of the period of three colours.
  constexpr int kPeriod = 3 * kLanes;
  float minus_mean[kPeriod];
  for (int i = 0; i < kPeriod; ++i) minus_mean[i] = -stem.mean[stem.bgr ? 2 - i % 3 : i % 3];
  const auto period = [&](const std::uint8_t* from, Bf16* to) {
    for (int phase = 0; phase < kPeriod; phase += kLanes) {
      store(to + phase, add(load_u8(from + phase), load(minus_mean + phase)));
    }
  };
  const int count = 3 * stem.width;
  int i = 0;
  for (; i + kPeriod <= count; i += kPeriod) period(in + i, out + i);
  if (i == count) return;
  std::uint8_t last[kPeriod] = {};
  PNF_ASSERT(count - i < kPeriod);
  for (int j = 0; i + j < count; ++j) last[j] = in[i + j];
  period(last, out + i);
}

void stage_planar(const ImageStem& stem, const float* in, Bf16* out) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(stem.height) * stem.width;
  int x = 0;
  for (; x + kLanes <= stem.width; x += kLanes) {
    store_in_turns(out + 3 * x, load(in + x), load(in + plane + x), load(in + 2 * plane + x));
  }
  if (x == stem.width) return;
  float last[3][kLanes] = {};
  PNF_ASSERT(stem.width - x < kLanes);
  for (int c = 0; c < 3; ++c) {
    for (int j = 0; x + j < stem.width; ++j) last[c][j] = in[c * plane + x + j];
  }
  store_in_turns(out + 3 * x, load(last[0]), load(last[1]), load(last[2]));
}

// The first pixel of a row of zeros and pixels is left of the image.
void stage_row(const ImageStem& stem, const Image& image, int iy, Bf16* row) {
  const int count = 3 * stem.width;
  if (iy < 0 || iy >= stem.height) {
    for (int i = 0; i < count + 6; ++i) row[i] = Bf16{0};
    return;
  }
  if (image.planar != nullptr) {
    stage_planar(stem, image.planar + static_cast<std::ptrdiff_t>(iy) * stem.width, row + 3);
  } else {
    stage_interleaved(stem, image.interleaved + static_cast<std::ptrdiff_t>(iy) * count, row + 3);
  }
  for (int c = 0; c < 3; ++c) row[c] = row[3 + count + c] = Bf16{0};
}

// [blocks][16 words][16]: taps by row, column and colour.
void pack_weights(const ImageStem& stem, bool bytes, float* out) {
  for (int block = 0; block < stem.blocks; ++block, out += kWeightWords) {
    const float* weights = stem.weights + static_cast<std::ptrdiff_t>(block) * kTaps * kBlock;
    const auto tap = [&](int t) {
      if (t >= kTaps) return splat(0.0f);
      const int ky = t / kRowTaps, kx = t % kRowTaps / 3, colour = t % 3;
      const Vec weight = load(weights + ((ky * 3 + colour) * 3 + kx) * kBlock);
      return bytes ? mul(weight, splat(stem.scale[colour])) : weight;
    };
    for (int word = 0; word < 16; ++word) store(out + word * kBlock, pair(tap(2 * word), tap(2 * word + 1)));
  }
}

// Where the taps of a row of the window are, in a staged row.
ThreeTimesNine taps_of(const ImageStem& stem, const Image& image) {
  short nine[kRowTaps];
  for (int i = 0; i < kRowTaps; ++i) {
    const int column = image.mirror ? 2 - i / 3 : i / 3;
    const int place = image.planar == nullptr && stem.bgr ? 2 - i % 3 : i % 3;
    nine[i] = static_cast<short>(3 * column + place);
  }
  return three_times_nine(nine);
}

template <typename Product>
void stem_rows_with(const ImageStem& stem, const Image& image, int row_begin, int row_end, float* scratch) {
  const int out_width = (stem.width + 1) / 2;
  const std::ptrdiff_t row_halves = stem_row_halves(stem);
  float* const weights = scratch;
  float* const panels = weights + stem.blocks * kWeightWords;
  Bf16* const ring = reinterpret_cast<Bf16*>(panels + static_cast<std::ptrdiff_t>(out_width) * kBlock);
  const auto row_of = [&](int iy) { return ring + (iy + 3) % 3 * row_halves; };
  pack_weights(stem, image.planar == nullptr, weights);
  const ThreeTimesNine taps = taps_of(stem, image);
  Product product;
  int next = 2 * row_begin - 1;
  for (int y = row_begin; y < row_end; ++y) {
    for (; next <= 2 * y + 1; ++next) stage_row(stem, image, next, row_of(next));
    const Bf16* const rows[] = {row_of(2 * y - 1), row_of(2 * y), row_of(2 * y + 1)};
    for (int x = 0; x < out_width; ++x) {
      const int first = image.mirror ? 3 * (stem.width - 1 - 2 * x) : 6 * x;
      Product::put(panels, out_width, x, gather(taps, rows[0] + first, rows[1] + first, rows[2] + first));
    }
    for (int block = 0; block < stem.blocks;) {
      const Run run = Product::run(panels, out_width, weights + block * kWeightWords, kWeightWords);
      const TileOutOf<Bf16> out = {
          .bias = stem.bias + block * kBlock,
          .addend = nullptr,
          .addend_stride = 0,
          .identity = nullptr,
          .identity_stride = 0,
          .output = stem.output + block * stem.block_stride + static_cast<std::ptrdiff_t>(y) * out_width * kBlock,
          .output_stride = stem.block_stride};
      if (stem.blocks - block < kTileBlocks) {
        product.template multiply<1>(&run, 1, out, out_width);
        block += 1;
      } else {
        product.template multiply<kTileBlocks>(&run, 1, out, out_width);
        block += kTileBlocks;
      }
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
