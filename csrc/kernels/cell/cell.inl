// The kernels of a cell in training. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
//
// Channels-last rows are brought into blocks of 16 channels when they are activated or scaled, so that everything
// between is the arithmetic of the node kernel. A depthwise kernel reads a plane that is padded by zeros on all sides:
// the gradient of its input is then the same convolution with reversed taps, of the plane of output gradients in which
// stride 2 leaves every other pixel zero.
#include "kernels/assert.h"
#include "kernels/cell/cell.h"
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/pool.inl"
// clang-format on
#include "kernels/cell/scratch.h"

namespace pnf::PNF_ISA {
namespace {

constexpr float kZeros[kTileBlocks * kBlock] = {};
constexpr float kOnes[kBlock] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f,
                                 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};

// Registers that the sums of a weight's gradient may take.
constexpr int kAccumulators = kTilePixels * kTileBlocks * kVecs;
// Output channels whose products with a vector of input channels are summed at a time.
constexpr int kOuterRows = kLanes == 8 ? 8 : kLanes == 1 ? 4 : 16;
// Independent sums, enough to hide the latency of an addition.
constexpr int kWays = 4;

PNF_INLINE int channels_in(int block, int channels) {
  const int left = channels - block * kBlock;
  return left < kBlock ? left : kBlock;
}

// Pixels `step` floats apart to [pixels][16], channels beyond `channels` zero.
PNF_INLINE void load_block(const float* in, std::ptrdiff_t step, int channels, int pixels, float* out) {
  if (channels == kBlock) {
    for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kBlock; v += kLanes) store(out + p * kBlock + v, load(in + p * step + v));
    }
    return;
  }
  for (int p = 0; p < pixels; ++p) {
    int c = 0;
    for (; c < channels; ++c) out[p * kBlock + c] = in[p * step + c];
    for (; c < kBlock; ++c) out[p * kBlock + c] = 0.0f;
  }
}

PNF_INLINE void store_block(const float* in, int channels, int pixels, bool accumulate, std::ptrdiff_t step,
                            float* out) {
  if (channels == kBlock) {
    for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kBlock; v += kLanes) {
        const Vec value = load(in + p * kBlock + v);
        store(out + p * step + v, accumulate ? add(value, load(out + p * step + v)) : value);
      }
    }
    return;
  }
  for (int p = 0; p < pixels; ++p) {
    float* pixel = out + p * step;
    for (int c = 0; c < channels; ++c) pixel[c] = accumulate ? pixel[c] + in[p * kBlock + c] : in[p * kBlock + c];
  }
}

PNF_INLINE void clear(float* out, std::ptrdiff_t floats) {
  for (std::ptrdiff_t i = 0; i < floats; i += kLanes) store(out + i, splat(0.0f));
}

PNF_INLINE void activate_block(const float* in, std::ptrdiff_t step, int channels, int pixels, const float* slope,
                               float* out) {
  if (channels < kBlock) {
    load_block(in, step, channels, pixels, out);
    in = out;
    step = kBlock;
  }
  Vec s[kVecs];
#pragma GCC unroll 16
  for (int v = 0; v < kVecs; ++v) s[v] = load(slope + v * kLanes);
  for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) store(out + p * kBlock + v * kLanes, prelu(load(in + p * step + v * kLanes), s[v]));
  }
}

// Adds a vector of partial sums to float64.
PNF_INLINE void flush(Vec sums, double* out) {
  float values[kLanes];
  store(values, sums);
  for (int i = 0; i < kLanes; ++i) out[i] += static_cast<double>(values[i]);
}

PNF_INLINE Vec total(const Vec (&sums)[kWays]) { return add(add(sums[0], sums[1]), add(sums[2], sums[3])); }

// One block of a part in `input`.
struct PartBlock {
  int part, first, channels;
};

PNF_INLINE PartBlock part_block(const CellTerm& term, int block) {
  const int within = block % term.part_blocks;
  return {block / term.part_blocks, within * kBlock, channels_in(within, term.part_channels)};
}

// Calls body(first output pixel of the run, its first input pixel, pixels) for runs of pixels that lie evenly in the
// input of a kernel of 1.
template <typename Body>
PNF_INLINE void runs_of(const CellTerm& term, int begin, int count, Body body) {
  if (term.stride == 1) {
    body(begin, begin, count);
    return;
  }
  for (int p = begin; p < begin + count;) {
    const int y = p / term.out_width, x = p % term.out_width;
    const int left = begin + count - p, here = term.out_width - x < left ? term.out_width - x : left;
    body(p, (y * term.stride + term.offset) * term.width + x * term.stride + term.offset, here);
    p += here;
  }
}

// [pixels][16] activations of a kernel of 1 for all blocks, `panel` floats from one to the next.
PNF_INLINE void activate_chunk(const CellTerm& term, const float* const* input, int begin, int count,
                               std::ptrdiff_t panel, float* out) {
  for (int block = 0; block < term.blocks; ++block) {
    const PartBlock here = part_block(term, block);
    runs_of(term, begin, count, [&](int pixel, int source, int pixels) {
      activate_block(input[here.part] + static_cast<std::ptrdiff_t>(source) * term.part_channels + here.first,
                     static_cast<std::ptrdiff_t>(term.stride) * term.part_channels, here.channels, pixels,
                     term.slope + block * kBlock, out + block * panel + (pixel - begin) * kBlock);
    });
  }
}

// What the next chunk will read, brought near bit by bit while this one is multiplied: the products wait for nothing,
// and loading a chunk for nothing but memory.
class Ahead {
 public:
  void add(const float* begin, std::ptrdiff_t floats) {
    if (count_ == kRanges || floats <= 0) return;
    PNF_ASSERT(count_ < kRanges);
    ranges_[count_++] = {begin, floats};
    total_ += (floats + kLine - 1) / kLine;
  }
  // Shares the lines out evenly among `steps` calls of step().
  void plan(int steps) { per_step_ = steps < 1 ? total_ : (total_ + steps - 1) / steps; }
  void step() {
    std::ptrdiff_t lines = per_step_;
    while (lines > 0 && next_ < count_) {
      const Range& range = ranges_[next_];
      for (; lines > 0 && at_ < range.floats; at_ += kLine, --lines) __builtin_prefetch(range.begin + at_, 0, 2);
      if (at_ >= range.floats) {
        at_ = 0;
        ++next_;
      }
    }
  }

 private:
  static constexpr std::ptrdiff_t kLine = 16;  // floats
  static constexpr int kRanges = 16;
  struct Range {
    const float* begin;
    std::ptrdiff_t floats;
  };
  Range ranges_[kRanges];
  int count_ = 0, next_ = 0;
  std::ptrdiff_t at_ = 0, total_ = 0, per_step_ = 0;
};

// out[block o] = sum over panels of a[panel] weights[o][panel]
void multiply(const float* a, std::ptrdiff_t a_panel, int panels, const float* weights, int out_blocks, int pixels,
              float* out, std::ptrdiff_t out_panel, Ahead& ahead) {
  const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(panels) * kBlock * kBlock;
  for (int block = 0; block < out_blocks;) {
    const int here = out_blocks - block < kTileBlocks ? 1 : kTileBlocks;
    const Run run = {a, a_panel, weights + block * per_block, per_block, panels};
    const TileOut target = {kZeros, nullptr, 0, nullptr, 0, out + block * out_panel, out_panel};
    const auto prefetch = [&] { ahead.step(); };
    if (here == 1) {
      pointwise_pixels<1>(&run, 1, target, pixels, prefetch);
    } else {
      pointwise_pixels<kTileBlocks>(&run, 1, target, pixels, prefetch);
    }
    block += here;
  }
}

// How many steps multiply() takes with what is ahead of it.
int multiply_steps(int out_blocks, int pixels) {
  const int groups = out_blocks / kTileBlocks + (kTileBlocks > 1 ? out_blocks % kTileBlocks : 0);
  return groups * tiles_of(pixels);
}

// The input pixels of a chunk of a kernel of 1.
void add_inputs(const CellTerm& term, const float* const* input, int begin, int count, Ahead& ahead) {
  if (term.stride > 1 || count <= 0) return;
  const std::ptrdiff_t pixel = term.part_channels;
  for (int part = 0; part < term.parts; ++part) ahead.add(input[part] + begin * pixel, count * pixel);
}

PNF_INLINE std::ptrdiff_t padded_row(const CellTerm& term) {
  return static_cast<std::ptrdiff_t>(term.width + 2 * (term.kernel / 2)) * kBlock;
}

PNF_INLINE float* inside(const CellTerm& term, float* plane, int y) {
  const int pad = term.kernel / 2;
  return plane + (y + pad) * padded_row(term) + pad * kBlock;
}

// Zeroes what surrounds the image in a padded plane.
void clear_border(const CellTerm& term, float* plane) {
  const int pad = term.kernel / 2;
  const std::ptrdiff_t row = padded_row(term);
  clear(plane, pad * row);
  for (int y = 0; y < term.height; ++y) {
    clear(plane + (y + pad) * row, pad * kBlock);
    clear(plane + (y + pad + 1) * row - pad * kBlock, pad * kBlock);
  }
  clear(plane + (term.height + pad) * row, pad * row);
}

// The activated image of one block, inside a cleared border.
void activate_plane(const CellTerm& term, const float* const* input, int block, float* plane) {
  const PartBlock here = part_block(term, block);
  for (int y = 0; y < term.height; ++y) {
    activate_block(input[here.part] + static_cast<std::ptrdiff_t>(y) * term.width * term.part_channels + here.first,
                   term.part_channels, here.channels, term.width, term.slope + block * kBlock, inside(term, plane, y));
  }
}

// Rows y * stride .. y * stride + kernel of a padded plane.
PNF_INLINE void window_rows(const CellTerm& term, const float* plane, int top, const float** rows) {
  PNF_ASSERT(term.kernel <= kMaxKernel);
  for (int ky = 0; ky < term.kernel; ++ky) rows[ky] = plane + (top + ky) * padded_row(term);
}

// The gradients of a filtered plane at the pixels of the input that its windows are centred on, zero elsewhere.
void spread_plane(const CellTerm& term, const float* gradient, float* plane) {
  for (int y = 0; y < term.height; ++y) {
    float* out = inside(term, plane, y);
    if (y % term.stride != 0) {
      clear(out, row_floats(term));
      continue;
    }
    const float* in = gradient + static_cast<std::ptrdiff_t>(y / term.stride) * term.out_width * kBlock;
    for (int x = 0; x < term.width; ++x) {
      for (int v = 0; v < kVecs; ++v) {
        const Vec value = x % term.stride == 0 ? load(in + x / term.stride * kBlock + v * kLanes) : splat(0.0f);
        store(out + x * kBlock + v * kLanes, value);
      }
    }
  }
}

// sums[ky][kx] += sum_x rows[ky][x * S + kx] * gradient[x], for the taps from row Ky on.
template <int K, int S, int Ky = 0>
PNF_INLINE void correlate_row(const float* const* rows, const float* gradient, int width, float* sums) {
  constexpr int kMost = kAccumulators / K;
  constexpr int kRows = kMost < 1 ? 1 : kMost < K - Ky ? kMost : K - Ky;
#pragma GCC unroll 1
  for (int v = 0; v < kVecs; ++v) {
    Vec acc[kRows][K];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) acc[r][kx] = load(sums + ((Ky + r) * K + kx) * kBlock + v * kLanes);
    }
#pragma GCC unroll 1
    for (int x = 0; x < width; ++x) {
      const Vec g = load(gradient + x * kBlock + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const float* in = rows[Ky + r] + x * S * kBlock + v * kLanes;
#pragma GCC unroll 8
        for (int kx = 0; kx < K; ++kx) acc[r][kx] = fma(load(in + kx * kBlock), g, acc[r][kx]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) store(sums + ((Ky + r) * K + kx) * kBlock + v * kLanes, acc[r][kx]);
    }
  }
  if constexpr (Ky + kRows < K) correlate_row<K, S, Ky + kRows>(rows, gradient, width, sums);
}

template <int K, int S>
void correlate_plane(const CellTerm& term, const float* plane, const float* gradient, std::ptrdiff_t gradient_row,
                     double* out) {
  alignas(64) float sums[K * K * kBlock];
  for (int y = 0; y < term.out_height; ++y) {
    const float* rows[K];
    window_rows(term, plane, y * S, rows);
    clear(sums, K * K * kBlock);
    correlate_row<K, S>(rows, gradient + y * gradient_row, term.out_width, sums);
    for (int i = 0; i < K * K * kBlock; i += kLanes) flush(load(sums + i), out + i);
  }
}

using CorrelatePlane = void (*)(const CellTerm&, const float*, const float*, std::ptrdiff_t, double*);

CorrelatePlane correlate_plane_of(int kernel, int stride) {
  switch (kernel * 2 + stride) {
    case 3 * 2 + 1:
      return correlate_plane<3, 1>;
    case 3 * 2 + 2:
      return correlate_plane<3, 2>;
    case 5 * 2 + 1:
      return correlate_plane<5, 1>;
    case 5 * 2 + 2:
      return correlate_plane<5, 2>;
    case 7 * 2 + 1:
      return correlate_plane<7, 1>;
    default:
      return correlate_plane<7, 2>;
  }
}

// out[o][c] += sum over pixels of gradient[pixel][o] * in[pixel][c]
void outer_block(const float* gradient, const float* in, int pixels, double* out) {
#pragma GCC unroll 1
  for (int row = 0; row < kBlock; row += kOuterRows) {
#pragma GCC unroll 1
    for (int v = 0; v < kVecs; ++v) {
      Vec acc[kOuterRows];
#pragma GCC unroll 16
      for (int r = 0; r < kOuterRows; ++r) acc[r] = splat(0.0f);
#pragma GCC unroll 1
      for (int p = 0; p < pixels; ++p) {
        const Vec x = load(in + p * kBlock + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kOuterRows; ++r) acc[r] = fma(splat(gradient[p * kBlock + row + r]), x, acc[r]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kOuterRows; ++r) flush(acc[r], out + (row + r) * kBlock + v * kLanes);
    }
  }
}

// Reads runs of one block's values from where they lie, or through a buffer where the block is not whole.
class BlockReader {
 public:
  BlockReader(const ImageView& view, int block, int channels)
      : data_(view.data + block * view.block), view_step_(view.step), channels_(channels) {
    direct_ = view.padded || channels == kBlock;
  }
  std::ptrdiff_t step() const { return direct_ ? view_step_ : kBlock; }
  const float* at(int pixel, int count) {
    const float* in = data_ + pixel * view_step_;
    // The run after this one; the hardware stops at the end of a page.
    for (int p = count; p < 2 * count; ++p) __builtin_prefetch(in + p * view_step_, 0, 3);
    if (direct_) return in;
    load_block(in, view_step_, channels_, count, buffer_);
    return buffer_;
  }

 private:
  const float* data_;
  std::ptrdiff_t view_step_;
  int channels_;
  bool direct_;
  float buffer_[kMomentPixels * kBlock];
};

PNF_INLINE ImageView view_of(const OutputGradient& gradient) {
  return {gradient.data + gradient.first, gradient.stride, kBlock, false};
}

// The gradient of the products of one chunk, [out_blocks][chunk][16].
void product_gradients(const CellTerm& term, const CellGradient& args, int begin, int count, std::ptrdiff_t panel,
                       float* out) {
  for (int block = 0; block < term.out_blocks; ++block) {
    const int channels = channels_in(block, term.out_channels);
    BlockReader gradients(view_of(args.gradient), block, channels), products(args.products, block, channels);
    for (int first = 0; first < count; first += kMomentPixels) {
      const int here = count - first < kMomentPixels ? count - first : kMomentPixels;
      const float* g = gradients.at(begin + first, here);
      const float* in = products.at(begin + first, here);
      float* target = out + block * panel + first * kBlock;
#pragma GCC unroll 1
      for (int v = 0; v < kVecs; ++v) {
        const int lane = block * kBlock + v * kLanes;
        const Vec by_gradient = load(args.by_gradient + lane), by_product = load(args.by_product + lane);
        const Vec constant = load(args.constant + lane), minus_mean = mul(splat(-1.0f), load(args.mean + lane));
        for (int p = 0; p < here; ++p) {
          const Vec distance = add(load(in + p * products.step() + v * kLanes), minus_mean);
          store(target + p * kBlock + v * kLanes,
                fma(by_gradient, load(g + p * gradients.step() + v * kLanes), fma(by_product, distance, constant)));
        }
      }
    }
  }
}

// From the gradient of prelu(x), in `gradient` [pixels][16], to that of x and of the slope. `spare` holds as much.
void prelu_gradient(const float* x, float* gradient, int channels, int pixels, const float* slope, std::ptrdiff_t step,
                    bool accumulate, float* grad_input, double* grad_slope, float* spare) {
  std::ptrdiff_t x_step = step, out_step = step;
  float* out = grad_input;
  bool add_to_out = accumulate;
  if (channels < kBlock) {
    load_block(x, step, channels, pixels, spare);
    x = spare;
    out = gradient;
    x_step = out_step = kBlock;
    add_to_out = false;
  }
  for (int v = 0; v < kVecs; ++v) {
    const Vec s = load(slope + v * kLanes), zero = splat(0.0f);
    Vec sums[kWays] = {zero, zero, zero, zero};
    const auto pixel = [&](int p, Vec& sum) {
      const Vec value = load(x + p * x_step + v * kLanes), g = load(gradient + p * kBlock + v * kLanes);
      sum = fma(g, if_positive(value, zero, value), sum);
      const Vec result = if_positive(value, g, mul(g, s));
      float* target = out + p * out_step + v * kLanes;
      store(target, add_to_out ? add(result, load(target)) : result);
    };
    int p = 0;
    for (; p + kWays <= pixels; p += kWays) {
#pragma GCC unroll 4
      for (int way = 0; way < kWays; ++way) pixel(p + way, sums[way]);
    }
    for (; p < pixels; ++p) pixel(p, sums[0]);
    flush(total(sums), grad_slope + v * kLanes);
  }
  if (channels < kBlock) store_block(gradient, channels, pixels, accumulate, step, grad_input);
}

// The input's gradient of a kernel of 1 with stride 2, which reads some of its pixels only.
void clear_input_gradient(const CellTerm& term, const CellGradient& args) {
  const std::ptrdiff_t floats = static_cast<std::ptrdiff_t>(term.height) * term.width * term.part_channels;
  for (int part = 0; part < term.parts; ++part) {
    for (std::ptrdiff_t i = 0; i < floats; ++i) args.grad_input[part][i] = 0.0f;
  }
}

void pointwise_gradient(const CellTerm& term, const CellGradient& args, float* scratch) {
  const int pixels = cell_pixels(term), chunk = cell_chunk(term);
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(chunk) * kBlock;
  float* gradient = scratch;
  float* activated = gradient + term.out_blocks * panel;
  float* by_activated = activated + term.blocks * panel;
  float* spare = by_activated + term.blocks * panel;
  if (term.stride > 1 && !args.accumulate) clear_input_gradient(term, args);
  const bool add_to_input = term.stride > 1 || args.accumulate;
  for (int begin = 0; begin < pixels; begin += chunk) {
    const int count = pixels - begin < chunk ? pixels - begin : chunk;
    product_gradients(term, args, begin, count, panel, gradient);
    activate_chunk(term, args.input, begin, count, panel, activated);
    for (int o = 0; o < term.out_blocks; ++o) {
      for (int b = 0; b < term.blocks; ++b) {
        outer_block(gradient + o * panel, activated + b * panel, count,
                    args.grad_pointwise + (static_cast<std::ptrdiff_t>(o) * term.blocks + b) * kBlock * kBlock);
      }
    }
    const int after = begin + count, left = pixels - after < chunk ? pixels - after : chunk;
    Ahead ahead;
    add_inputs(term, args.grad_input, begin, count, ahead);
    add_inputs(term, args.input, after, left, ahead);
    ahead.add(args.gradient.data + after * args.gradient.stride, left * args.gradient.stride);
    if (args.products.padded) {
      for (int o = 0; o < term.out_blocks; ++o) {
        ahead.add(args.products.data + o * args.products.block + after * kBlock, left * kBlock);
      }
    } else {
      ahead.add(args.products.data + after * args.products.step, left * args.products.step);
    }
    ahead.plan(multiply_steps(term.blocks, count));
    multiply(gradient, panel, term.out_blocks, term.transposed, term.blocks, count, by_activated, panel, ahead);
    for (int block = 0; block < term.blocks; ++block) {
      const PartBlock here = part_block(term, block);
      runs_of(term, begin, count, [&](int pixel, int source, int run) {
        const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(source) * term.part_channels + here.first;
        prelu_gradient(args.input[here.part] + at, by_activated + block * panel + (pixel - begin) * kBlock,
                       here.channels, run, term.slope + block * kBlock,
                       static_cast<std::ptrdiff_t>(term.stride) * term.part_channels, add_to_input,
                       args.grad_input[here.part] + at, args.grad_slope + block * kBlock, spare);
      });
    }
  }
}

// Of the inputs of another image, or of what lies like them, the share that belongs to a chunk of output pixels.
void add_share(const CellTerm& term, const float* const* input, int image, int begin, int count, Ahead& ahead) {
  const std::ptrdiff_t floats = static_cast<std::ptrdiff_t>(term.height) * term.width * term.part_channels;
  const std::ptrdiff_t pixels = cell_pixels(term);
  const std::ptrdiff_t first = floats * begin / pixels, end = floats * (begin + count) / pixels;
  for (int part = 0; part < term.parts; ++part) ahead.add(input[part] + image * floats + first, end - first);
}

// The filtered planes of an image. The activated, padded ones are left in `activated`: one of each block, or the last
// one only where `activated_panel` is zero.
void filter_planes(const CellTerm& term, const float* const* input, float* activated, std::ptrdiff_t activated_panel,
                   float* filtered) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(cell_pixels(term)) * kBlock;
  const DepthwiseRow row = depthwise_row_of<float, MiddleKind::kNone>(term.kernel, term.stride);
  for (int block = 0; block < term.blocks; ++block) {
    float* padded = activated + block * activated_panel;
    if (block == 0 || activated_panel > 0) clear_border(term, padded);
    activate_plane(term, input, block, padded);
    for (int y = 0; y < term.out_height; ++y) {
      const float* rows[kMaxKernel];
      window_rows(term, padded, y * term.stride, rows);
      row(rows, 0, term.kernel, term.out_width, term.depthwise + block * term.kernel * term.kernel * kBlock, nullptr,
          filtered + block * plane + static_cast<std::ptrdiff_t>(y) * term.out_width * kBlock);
    }
  }
}

void depthwise_gradient(const CellTerm& term, const CellGradient& args, float* scratch) {
  const std::ptrdiff_t pixels = cell_pixels(term), plane = pixels * kBlock;
  const std::ptrdiff_t padded = padded_floats(term), out_row = static_cast<std::ptrdiff_t>(term.out_width) * kBlock;
  const std::ptrdiff_t taps = static_cast<std::ptrdiff_t>(term.kernel) * term.kernel * kBlock;
  const int chunk_rows = chunk_rows_of(term);
  const std::ptrdiff_t panel = chunk_rows * out_row;
  float* gradient = scratch;
  float* activated = gradient + term.out_blocks * panel;
  float* spread = activated + term.blocks * padded;
  float* by_activated = spread + term.blocks * padded;
  float* spare = by_activated + row_floats(term);
  float* by_filtered = spare + row_floats(term);  // stride 2 only; else the gradients go to `spread` at once
  float* filtered = by_filtered + (term.stride > 1 ? term.blocks * plane : 0);

  filter_planes(term, args.input, activated, padded, filtered);
  for (int block = 0; block < term.blocks; ++block) clear_border(term, spread + block * padded);
  for (int y = 0; y < term.out_height; y += chunk_rows) {
    const int rows = term.out_height - y < chunk_rows ? term.out_height - y : chunk_rows;
    const int count = rows * term.out_width;
    product_gradients(term, args, y * term.out_width, count, panel, gradient);
    for (int o = 0; o < term.out_blocks; ++o) {
      for (int b = 0; b < term.blocks; ++b) {
        outer_block(gradient + o * panel, filtered + b * plane + y * out_row, count,
                    args.grad_pointwise + (static_cast<std::ptrdiff_t>(o) * term.blocks + b) * kBlock * kBlock);
      }
    }
    Ahead ahead;
    add_share(term, args.grad_input, 0, y * term.out_width, count, ahead);
    if (args.next != 0) {
      add_share(term, args.input, args.next, y * term.out_width, count, ahead);
      ahead.add(args.gradient.data + (args.next * pixels + y * term.out_width) * args.gradient.stride,
                count * args.gradient.stride);
      if (args.products.padded) {
        for (int o = 0; o < term.out_blocks; ++o) {
          ahead.add(args.products.data + args.next * term.out_blocks * plane + o * args.products.block + y * out_row,
                    count * kBlock);
        }
      }
    }
    if (term.stride > 1) {
      ahead.plan(multiply_steps(term.blocks, count));
      multiply(gradient, panel, term.out_blocks, term.transposed, term.blocks, count, by_filtered + y * out_row, plane,
               ahead);
      continue;
    }
    ahead.plan(rows * multiply_steps(term.blocks, term.out_width));
    for (int r = 0; r < rows; ++r) {
      multiply(gradient + r * out_row, panel, term.out_blocks, term.transposed, term.blocks, term.out_width,
               inside(term, spread, y + r), padded, ahead);
    }
  }
  const DepthwiseRow row = depthwise_row_of<float, MiddleKind::kNone>(term.kernel, 1);
  const CorrelatePlane correlate = correlate_plane_of(term.kernel, term.stride);
  for (int block = 0; block < term.blocks; ++block) {
    const PartBlock here = part_block(term, block);
    float* spread_here = spread + block * padded;
    double* by_taps = args.grad_depthwise + block * taps;
    if (term.stride > 1) {
      correlate(term, activated + block * padded, by_filtered + block * plane, out_row, by_taps);
      spread_plane(term, by_filtered + block * plane, spread_here);
    } else {
      correlate(term, activated + block * padded, inside(term, spread_here, 0), padded_row(term), by_taps);
    }
    for (int y = 0; y < term.height; ++y) {
      const float* rows[kMaxKernel];
      window_rows(term, spread_here, y, rows);
      row(rows, 0, term.kernel, term.width, term.reversed + block * taps, nullptr, by_activated);
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(y) * term.width * term.part_channels + here.first;
      prelu_gradient(args.input[here.part] + at, by_activated, here.channels, term.width, term.slope + block * kBlock,
                     term.part_channels, args.accumulate, args.grad_input[here.part] + at,
                     args.grad_slope + block * kBlock, spare);
    }
  }
}

// The 3x3 window of an output pixel, inside the image.
struct Window {
  int y0, y1, x0, x1;
};

PNF_INLINE Window window_at(const CellTerm& term, int y, int x) {
  const int top = y * term.stride - 1, left = x * term.stride - 1;
  return {top < 0 ? 0 : top, top + 3 > term.height ? term.height : top + 3, left < 0 ? 0 : left,
          left + 3 > term.width ? term.width : left + 3};
}

PNF_INLINE float inverse_area(const Window& window) {
  return 1.0f / static_cast<float>((window.y1 - window.y0) * (window.x1 - window.x0));
}

// One block of the input, [height * width][16].
void load_plane(const CellTerm& term, const float* const* input, int block, float* plane) {
  const PartBlock here = part_block(term, block);
  load_block(input[here.part] + here.first, term.part_channels, here.channels, term.height * term.width, plane);
}

template <bool Max>
void pool_plane(const CellTerm& term, const float* plane, float* out) {
  const std::ptrdiff_t row = row_floats(term);
  for (int y = 0; y < term.out_height; ++y) {
    for (int x = 0; x < term.out_width; ++x, out += kBlock) {
      const Window window = window_at(term, y, x);
      const Vec scale = splat(inverse_area(window));
      for (int v = 0; v < kBlock; v += kLanes) {
        const Vec pooled = pool_window<Max>(plane + window.y0 * row + window.x0 * kBlock + v, window.y1 - window.y0,
                                            window.x1 - window.x0, row);
        store(out + v, Max ? pooled : mul(pooled, scale));
      }
    }
  }
}

template <bool Max>
void pool_plane_gradient(const CellTerm& term, const float* plane, const float* products, const float* gradient,
                         float* out) {
  const std::ptrdiff_t row = row_floats(term);
  const Vec zero = splat(0.0f);
  clear(out, term.height * row);
  for (int y = 0; y < term.out_height; ++y) {
    for (int x = 0; x < term.out_width; ++x, products += kBlock, gradient += kBlock) {
      const Window window = window_at(term, y, x);
      const Vec scale = splat(inverse_area(window));
      for (int v = 0; v < kBlock; v += kLanes) {
        const Vec most = load(products + v);
        Vec left = Max ? load(gradient + v) : mul(load(gradient + v), scale);
        for (int iy = window.y0; iy < window.y1; ++iy) {
          for (int ix = window.x0; ix < window.x1; ++ix) {
            const std::ptrdiff_t at = iy * row + ix * kBlock + v;
            Vec share = left;
            if (Max) {
              const Vec value = load(plane + at);
              share = if_equal(value, most, left, zero);
              left = if_equal(value, most, zero, left);
            }
            store(out + at, add(share, load(out + at)));
          }
        }
      }
    }
  }
}

void pool_gradient(const CellTerm& term, const CellGradient& args, float* scratch) {
  const int pixels = cell_pixels(term);
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(pixels) * kBlock;
  float* gradient = scratch;
  float* plane = gradient + term.out_blocks * panel;
  float* by_plane = plane + term.height * row_floats(term);
  product_gradients(term, args, 0, pixels, panel, gradient);
  for (int block = 0; block < term.blocks; ++block) {
    const PartBlock here = part_block(term, block);
    if (term.kind == CellKind::kMaxPool) {
      load_plane(term, args.input, block, plane);
      pool_plane_gradient<true>(term, plane, args.products.data + block * args.products.block, gradient + block * panel,
                                by_plane);
    } else {
      pool_plane_gradient<false>(term, plane, args.products.data + block * args.products.block,
                                 gradient + block * panel, by_plane);
    }
    store_block(by_plane, here.channels, term.height * term.width, args.accumulate, term.part_channels,
                args.grad_input[here.part] + here.first);
  }
}

void normalize_gradient(const CellTerm& term, const CellGradient& args, float* scratch) {
  const int pixels = cell_pixels(term), chunk = cell_chunk(term);
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(chunk) * kBlock;
  for (int begin = 0; begin < pixels; begin += chunk) {
    const int count = pixels - begin < chunk ? pixels - begin : chunk;
    product_gradients(term, args, begin, count, panel, scratch);
    for (int block = 0; block < term.blocks; ++block) {
      const PartBlock here = part_block(term, block);
      store_block(scratch + block * panel, here.channels, count, args.accumulate, term.part_channels,
                  args.grad_input[here.part] + static_cast<std::ptrdiff_t>(begin) * term.part_channels + here.first);
    }
  }
}

void separable_products(const CellTerm& term, const float* const* input, int next, float* filtered, float* products,
                        float* scratch) {
  const int pixels = cell_pixels(term), chunk = cell_chunk(term);
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(pixels) * kBlock;
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(chunk) * kBlock;
  if (has_window(term)) filter_planes(term, input, scratch, 0, filtered);
  for (int begin = 0; begin < pixels; begin += chunk) {
    const int count = pixels - begin < chunk ? pixels - begin : chunk;
    const float* panels = filtered + static_cast<std::ptrdiff_t>(begin) * kBlock;
    Ahead ahead;
    if (!has_window(term)) {
      activate_chunk(term, input, begin, count, panel, scratch);
      panels = scratch;
      const int after = begin + count, left = pixels - after;
      add_inputs(term, input, after, left < chunk ? left : chunk, ahead);
    } else if (next != 0) {
      add_share(term, input, next, begin, count, ahead);
    }
    ahead.plan(multiply_steps(term.out_blocks, count));
    multiply(panels, has_window(term) ? plane : panel, term.blocks, term.pointwise, term.out_blocks, count,
             products + static_cast<std::ptrdiff_t>(begin) * kBlock, plane, ahead);
  }
}

}  // namespace

void cell_products(const CellTerm& term, const float* const* input, int next, float* filtered, float* products,
                   float* scratch) {
  if (term.kind == CellKind::kSeparable) {
    separable_products(term, input, next, filtered, products, scratch);
    return;
  }
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(cell_pixels(term)) * kBlock;
  for (int block = 0; block < term.blocks; ++block) {
    float* out = products + block * plane;
    load_plane(term, input, block, scratch);
    if (term.kind == CellKind::kMaxPool) {
      pool_plane<true>(term, scratch, out);
    } else {
      pool_plane<false>(term, scratch, out);
    }
  }
}

// Distances are taken from the first pixel, so that the squares do not cancel where the spread is far below the mean.
void channel_moments(const ImageView& products, int channels, int pixels, double* mean, double* square) {
  for (int block = 0; block * kBlock < channels; ++block) {
    BlockReader reader(products, block, channels_in(block, channels));
    alignas(64) float first[kBlock];
    load_block(reader.at(0, 1), kBlock, kBlock, 1, first);  // a copy: the reader's buffer is used again
    double sum[kBlock] = {}, squares[kBlock] = {};
    for (int begin = 0; begin < pixels; begin += kMomentPixels) {
      const int count = pixels - begin < kMomentPixels ? pixels - begin : kMomentPixels;
      const float* in = reader.at(begin, count);
#pragma GCC unroll 1
      for (int v = 0; v < kVecs; ++v) {
        const Vec minus_first = mul(splat(-1.0f), load(first + v * kLanes)), zero = splat(0.0f);
        Vec distances[kWays] = {zero, zero, zero, zero}, products_of[kWays] = {zero, zero, zero, zero};
        const auto pixel = [&](int p, int way) {
          const Vec distance = add(load(in + p * reader.step() + v * kLanes), minus_first);
          distances[way] = add(distances[way], distance);
          products_of[way] = fma(distance, distance, products_of[way]);
        };
        int p = 0;
        for (; p + kWays <= count; p += kWays) {
#pragma GCC unroll 4
          for (int way = 0; way < kWays; ++way) pixel(p + way, way);
        }
        for (; p < count; ++p) pixel(p, 0);
        flush(total(distances), sum + v * kLanes);
        flush(total(products_of), squares + v * kLanes);
      }
    }
    for (int i = 0; i < kBlock; ++i) {
      mean[block * kBlock + i] = first[i] + sum[i] / pixels;
      square[block * kBlock + i] = squares[i] - sum[i] * sum[i] / pixels;
    }
  }
}

void gradient_moments(const CellTerm& term, const OutputGradient& gradient, const ImageView& products,
                      const float* mean, double* sum, double* product_sum) {
  const int pixels = cell_pixels(term);
  for (int block = 0; block < term.out_blocks; ++block) {
    const int channels = channels_in(block, term.out_channels);
    BlockReader gradients(view_of(gradient), block, channels), values(products, block, channels);
    for (int i = 0; i < kBlock; ++i) sum[block * kBlock + i] = product_sum[block * kBlock + i] = 0.0;
    for (int begin = 0; begin < pixels; begin += kMomentPixels) {
      const int count = pixels - begin < kMomentPixels ? pixels - begin : kMomentPixels;
      const float* g = gradients.at(begin, count);
      const float* in = values.at(begin, count);
#pragma GCC unroll 1
      for (int v = 0; v < kVecs; ++v) {
        const int lane = block * kBlock + v * kLanes;
        const Vec minus_mean = mul(splat(-1.0f), load(mean + lane)), zero = splat(0.0f);
        Vec sums[kWays] = {zero, zero, zero, zero}, by_product[kWays] = {zero, zero, zero, zero};
        const auto pixel = [&](int p, int way) {
          const Vec value = load(g + p * gradients.step() + v * kLanes);
          sums[way] = add(sums[way], value);
          by_product[way] = fma(value, add(load(in + p * values.step() + v * kLanes), minus_mean), by_product[way]);
        };
        int p = 0;
        for (; p + kWays <= count; p += kWays) {
#pragma GCC unroll 4
          for (int way = 0; way < kWays; ++way) pixel(p + way, way);
        }
        for (; p < count; ++p) pixel(p, 0);
        flush(total(sums), sum + lane);
        flush(total(by_product), product_sum + lane);
      }
    }
  }
}

namespace {

bool whole_blocks(const NormalizedSum& args) {
  bool whole = args.channels % kBlock == 0 && args.term_count > 0;
  for (int t = 0; t < args.term_count; ++t) {
    whole = whole && args.terms[t].first_out == 0 && args.terms[t].channels == args.channels;
  }
  return whole;
}

void normalize_any(const NormalizedSum& args) {
  const std::ptrdiff_t floats = static_cast<std::ptrdiff_t>(args.pixels) * args.channels;
  for (std::ptrdiff_t i = 0; i < floats; ++i) {
    float sum = args.accumulate ? args.out[i] : 0.0f;
    for (int r = 0; r < args.residual_count; ++r) sum += args.residuals[r][i];
    args.out[i] = sum;
  }
  for (int t = 0; t < args.term_count; ++t) {
    const NormalizedTerm& term = args.terms[t];
    for (int c = 0; c < term.channels; ++c) {
      const float* in = term.products.data + c / kBlock * term.products.block + c % kBlock;
      const float scale = term.scale[c], shift = term.shift[c];
      float* out = args.out + term.first_out + c;
      for (int p = 0; p < args.pixels; ++p) out[p * args.channels] += in[p * term.products.step] * scale + shift;
    }
  }
}

// out -= scale * values + shift, for one block of an image.
void subtract_scaled(BlockReader& values, const float* scale, const float* shift, int pixels, float* out) {
  for (int begin = 0; begin < pixels; begin += kMomentPixels) {
    const int count = pixels - begin < kMomentPixels ? pixels - begin : kMomentPixels;
    const float* in = values.at(begin, count);
    for (int v = 0; v < kBlock; v += kLanes) {
      const Vec minus_scale = mul(splat(-1.0f), load(scale + v)), minus_shift = mul(splat(-1.0f), load(shift + v));
      for (int p = 0; p < count; ++p) {
        float* target = out + (begin + p) * kBlock + v;
        store(target, add(fma(minus_scale, load(in + p * values.step() + v), load(target)), minus_shift));
      }
    }
  }
}

PNF_INLINE Vec shift_at(const NormalizedSum& args, int channel) {
  Vec shift = splat(0.0f);
  for (int t = 0; t < args.term_count; ++t) shift = add(shift, load(args.terms[t].shift + channel));
  return shift;
}

}  // namespace

void normalize_sum(const NormalizedSum& args) {
  if (!whole_blocks(args)) {
    normalize_any(args);
    return;
  }
  for (int c = 0; c < args.channels; c += kLanes) {
    const Vec shift = shift_at(args, c);
    for (int begin = 0; begin < args.pixels; begin += kMomentPixels) {
      const int end = args.pixels - begin < kMomentPixels ? args.pixels : begin + kMomentPixels;
      for (int t = 0; t < args.term_count; ++t) {
        const ImageView& view = args.terms[t].products;
        const float* in = view.data + c / kBlock * view.block + c % kBlock;
        const Vec scale = load(args.terms[t].scale + c);
        for (int p = begin; p < end; ++p) {
          float* out = args.out + static_cast<std::ptrdiff_t>(p) * args.channels + c;
          Vec before = shift;
          if (t > 0) {
            before = load(out);
          } else if (args.accumulate) {
            before = add(load(out), shift);
          }
          store(out, fma(load(in + p * view.step), scale, before));
        }
      }
      for (int r = 0; r < args.residual_count; ++r) {
        for (int p = begin; p < end; ++p) {
          const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(p) * args.channels + c;
          store(args.out + at, add(load(args.out + at), load(args.residuals[r] + at)));
        }
      }
    }
  }
}

void remaining_result(const NormalizedSum& others, const float* sum) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(others.pixels) * kBlock;
  for (int block = 0; block * kBlock < others.channels; ++block) {
    const int channels = channels_in(block, others.channels);
    float* out = others.out + block * plane;
    load_block(sum + block * kBlock, others.channels, channels, others.pixels, out);
    for (int r = 0; r < others.residual_count; ++r) {
      BlockReader residual({others.residuals[r], others.channels, kBlock, false}, block, channels);
      subtract_scaled(residual, kOnes, kZeros, others.pixels, out);
    }
    for (int t = 0; t < others.term_count; ++t) {
      const NormalizedTerm& term = others.terms[t];
      BlockReader products(term.products, block, channels);
      subtract_scaled(products, term.scale + block * kBlock, term.shift + block * kBlock, others.pixels, out);
    }
  }
}

void cell_gradient(const CellTerm& term, const CellGradient& args, float* scratch) {
  if (term.kind == CellKind::kNormalize) {
    normalize_gradient(term, args, scratch);
  } else if (term.kind != CellKind::kSeparable) {
    pool_gradient(term, args, scratch);
  } else if (has_window(term)) {
    depthwise_gradient(term, args, scratch);
  } else {
    pointwise_gradient(term, args, scratch);
  }
}

}  // namespace pnf::PNF_ISA
