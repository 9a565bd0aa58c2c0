// What the kernels of a cell in training share, whatever multiplies: blocks of 16 channels out of channels-last states,
// the gradient of the products and of PReLU, pools. Include after a vocabulary from kernels/simd and node/pool.inl, with
// PNF_ISA naming the vocabulary's namespace.
#include "kernels/assert.h"
#include "kernels/cell/cell.h"
#include "kernels/cell/scratch.h"

namespace pnf::PNF_ISA {
namespace {

// Independent sums, enough to hide the latency of an addition.
constexpr int kWays = 4;

PNF_INLINE int channels_in(int block, int channels) {
  const int left = channels - block * kBlock;
  return left < kBlock ? left : kBlock;
}

PNF_INLINE float value_of(float x) { return x; }
PNF_INLINE float value_of(Bf16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16); }

PNF_INLINE void set_value(float& out, float x) { out = x; }
// To the nearest, ties to even; a NaN stays one.
PNF_INLINE void set_value(Bf16& out, float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  out = static_cast<Bf16>((x != x ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Pixels `step` elements apart to [pixels][16], channels beyond `channels` zero.
template <typename From, typename To>
PNF_INLINE void load_block(const From* in, std::ptrdiff_t step, int channels, int pixels, To* out) {
  if (channels == kBlock) {
    for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kBlock; v += kLanes) store(out + p * kBlock + v, load(in + p * step + v));
    }
    return;
  }
  for (int p = 0; p < pixels; ++p) {
    int c = 0;
    for (; c < channels; ++c) set_value(out[p * kBlock + c], value_of(in[p * step + c]));
    for (; c < kBlock; ++c) set_value(out[p * kBlock + c], 0.0f);
  }
}

// And back, added to `before`, which lies like `out`, or may be null.
template <typename State>
PNF_INLINE void store_block(const float* in, int channels, int pixels, const State* before, std::ptrdiff_t step,
                            State* out) {
  if (channels == kBlock) {
    for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kBlock; v += kLanes) {
        const Vec value = load(in + p * kBlock + v);
        store(out + p * step + v, before == nullptr ? value : add(value, load(before + p * step + v)));
      }
    }
    return;
  }
  for (int p = 0; p < pixels; ++p) {
    for (int c = 0; c < channels; ++c) {
      const float value = in[p * kBlock + c];
      set_value(out[p * step + c], before == nullptr ? value : value_of(before[p * step + c]) + value);
    }
  }
}

PNF_INLINE void clear(float* out, std::ptrdiff_t floats) {
  for (std::ptrdiff_t i = 0; i < floats; i += kLanes) store(out + i, splat(0.0f));
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

// What the next chunk will read, brought near bit by bit while this one is multiplied: the products wait for nothing,
// and loading a chunk for nothing but memory.
class Prefetch {
 public:
  template <typename State>
  void add(const State* begin, std::ptrdiff_t elements) {
    if (count_ == kRanges || elements <= 0) return;
    PNF_ASSERT(count_ < kRanges);
    const std::ptrdiff_t bytes = elements * static_cast<std::ptrdiff_t>(sizeof(State));
    ranges_[count_++] = {reinterpret_cast<const char*>(begin), bytes};
    total_ += (bytes + kLine - 1) / kLine;
  }
  // Shares the lines out evenly among `steps` calls of step().
  void plan(int steps) { per_step_ = steps < 1 ? total_ : (total_ + steps - 1) / steps; }
  void step() {
    std::ptrdiff_t lines = per_step_;
    while (lines > 0 && next_ < count_) {
      const Range& range = ranges_[next_];
      for (; lines > 0 && at_ < range.bytes; at_ += kLine, --lines) __builtin_prefetch(range.begin + at_, 0, 2);
      if (at_ >= range.bytes) {
        at_ = 0;
        ++next_;
      }
    }
  }

 private:
  static constexpr std::ptrdiff_t kLine = 64;
  static constexpr int kRanges = 16;
  struct Range {
    const char* begin;
    std::ptrdiff_t bytes;
  };
  Range ranges_[kRanges];
  int count_ = 0, next_ = 0;
  std::ptrdiff_t at_ = 0, total_ = 0, per_step_ = 0;
};

// The input pixels of a chunk of a kernel of 1. A part may be null.
template <typename State>
void add_inputs(const CellTerm& term, const State* const* input, int begin, int count, Prefetch& prefetch) {
  if (term.stride > 1 || count <= 0) return;
  const std::ptrdiff_t pixel = term.part_channels;
  for (int part = 0; part < term.parts; ++part) {
    if (input[part] != nullptr) prefetch.add(input[part] + begin * pixel, count * pixel);
  }
}

// Of the inputs of another image, or of what lies like them, the share that belongs to a chunk of output pixels.
template <typename State>
void add_share(const CellTerm& term, const State* const* input, int image, int begin, int count, Prefetch& prefetch) {
  const std::ptrdiff_t elements = static_cast<std::ptrdiff_t>(term.height) * term.width * term.part_channels;
  const std::ptrdiff_t pixels = cell_pixels(term);
  const std::ptrdiff_t first = elements * begin / pixels, end = elements * (begin + count) / pixels;
  for (int part = 0; part < term.parts; ++part) {
    if (input[part] != nullptr) prefetch.add(input[part] + image * elements + first, end - first);
  }
}

// Of the output's gradient and the products that go with it.
template <typename State>
void add_gradient(const CellTerm& term, const CellGradientOf<State>& args, std::ptrdiff_t begin, int count,
                  Prefetch& prefetch) {
  prefetch.add(args.gradient.data + begin * args.gradient.stride, count * args.gradient.stride);
  if (args.products.padded) {
    for (int o = 0; o < term.out_blocks; ++o) {
      prefetch.add(args.products.data + o * args.products.block + begin * kBlock, count * kBlock);
    }
  } else {
    prefetch.add(args.products.data + begin * args.products.step, count * args.products.step);
  }
}

// Reads runs of one block's values from where they lie, or through a buffer where the block is not whole.
template <typename State>
class BlockReader {
 public:
  BlockReader(const ImageViewOf<State>& view, int block, int channels)
      : data_(view.data + block * view.block), view_step_(view.step), channels_(channels) {
    direct_ = view.padded || channels == kBlock;
  }
  std::ptrdiff_t step() const { return direct_ ? view_step_ : kBlock; }
  const State* at(int pixel, int count) {
    const State* in = data_ + pixel * view_step_;
    // The run after this one; the hardware stops at the end of a page.
    for (int p = count; p < 2 * count; ++p) __builtin_prefetch(in + p * view_step_, 0, 3);
    if (direct_) return in;
    load_block(in, view_step_, channels_, count, buffer_);
    return buffer_;
  }

 private:
  const State* data_;
  std::ptrdiff_t view_step_;
  int channels_;
  bool direct_;
  State buffer_[kMomentPixels * kBlock];
};

template <typename State>
PNF_INLINE ImageViewOf<State> view_of(const OutputGradientOf<State>& gradient) {
  return {gradient.data + gradient.first, gradient.stride, kBlock, false};
}

// The gradient of the products of one chunk, [out_blocks][chunk][16].
template <typename State, typename To>
void product_gradients(const CellTerm& term, const CellGradientOf<State>& args, int begin, int count,
                       std::ptrdiff_t panel, To* out) {
  for (int block = 0; block < term.out_blocks; ++block) {
    const int channels = channels_in(block, term.out_channels);
    BlockReader<State> gradients(view_of(args.gradient), block, channels), products(args.products, block, channels);
    for (int first = 0; first < count; first += kMomentPixels) {
      const int here = count - first < kMomentPixels ? count - first : kMomentPixels;
      const State* g = gradients.at(begin + first, here);
      const State* in = products.at(begin + first, here);
      To* target = out + block * panel + first * kBlock;
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

// `before` at an element, or null.
template <typename State>
PNF_INLINE const State* at_element(const State* before, std::ptrdiff_t element) {
  return before == nullptr ? nullptr : before + element;
}

// From the gradient of prelu(x), [pixels][16], to that of x, `step` elements from pixel to pixel, and of the slope.
template <bool HasBefore, typename State, typename Gradient, typename Result>
PNF_INLINE void prelu_gradient_pixels(const State* x, const Gradient* gradient, int pixels, const float* slope,
                                      std::ptrdiff_t step, const Result* before, Result* out, double* grad_slope) {
#pragma GCC unroll 1
  for (int v = 0; v < kBlock; v += kLanes) {
    const Vec s = load(slope + v), zero = splat(0.0f);
    Vec sums[kWays] = {zero, zero, zero, zero};
    const auto pixel = [&](int p, Vec& sum) {
      const std::ptrdiff_t at = p * step + v;
      const Vec value = load(x + at), g = load(gradient + p * kBlock + v);
      sum = fma(g, if_positive(value, zero, value), sum);
      const Vec result = if_positive(value, g, mul(g, s));
      store(out + at, HasBefore ? add(result, load(before + at)) : result);
    };
    int p = 0;
    for (; p + kWays <= pixels; p += kWays) {
#pragma GCC unroll 4
      for (int way = 0; way < kWays; ++way) pixel(p + way, sums[way]);
    }
    for (; p < pixels; ++p) pixel(p, sums[0]);
    flush(total(sums), grad_slope + v);
  }
}

// The gradient of x is added to `before`. `spare` has room for as many floats as pixels * 16.
template <typename State, typename Gradient>
void prelu_gradient(const State* x, const Gradient* gradient, int channels, int pixels, const float* slope,
                    std::ptrdiff_t step, const State* before, State* grad_input, double* grad_slope, float* spare) {
  if (channels < kBlock) {
    load_block(x, step, channels, pixels, spare);
    prelu_gradient_pixels<false, float, Gradient, float>(spare, gradient, pixels, slope, kBlock, nullptr, spare,
                                                         grad_slope);
    store_block(spare, channels, pixels, before, step, grad_input);
  } else if (before == nullptr) {
    prelu_gradient_pixels<false>(x, gradient, pixels, slope, step, before, grad_input, grad_slope);
  } else {
    prelu_gradient_pixels<true>(x, gradient, pixels, slope, step, before, grad_input, grad_slope);
  }
}

// The input's gradient of a kernel of 1 with stride 2, which reads some of its pixels only and adds to those.
template <typename State>
void start_input_gradient(const CellTerm& term, const CellGradientOf<State>& args) {
  const std::ptrdiff_t elements = static_cast<std::ptrdiff_t>(term.height) * term.width * term.part_channels;
  for (int part = 0; part < term.parts; ++part) {
    const State* const before = args.before[part];
    State* const out = args.grad_input[part];
    if (before == out) continue;
    for (std::ptrdiff_t i = 0; i < elements; ++i) out[i] = before == nullptr ? State{} : before[i];
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
template <typename State>
void load_plane(const CellTerm& term, const State* const* input, int block, float* plane) {
  const PartBlock here = part_block(term, block);
  load_block(input[here.part] + here.first, term.part_channels, here.channels, term.height * term.width, plane);
}

template <bool Max, typename State>
void pool_plane(const CellTerm& term, const float* plane, State* out) {
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

template <bool Max, typename State>
void pool_plane_gradient(const CellTerm& term, const float* plane, const State* products, const float* gradient,
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

template <typename State>
void pool_products(const CellTerm& term, const State* const* input, State* products, float* scratch) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(cell_pixels(term)) * kBlock;
  for (int block = 0; block < term.blocks; ++block) {
    State* out = products + block * plane;
    load_plane(term, input, block, scratch);
    if (term.kind == CellKind::kMaxPool) {
      pool_plane<true>(term, scratch, out);
    } else {
      pool_plane<false>(term, scratch, out);
    }
  }
}

template <typename State>
void pool_gradient(const CellTerm& term, const CellGradientOf<State>& args, float* scratch) {
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
    store_block(by_plane, here.channels, term.height * term.width, at_element(args.before[here.part], here.first),
                term.part_channels, args.grad_input[here.part] + here.first);
  }
}

template <typename State>
void normalize_gradient(const CellTerm& term, const CellGradientOf<State>& args, float* scratch) {
  const int pixels = cell_pixels(term), chunk = cell_chunk(term);
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(chunk) * kBlock;
  for (int begin = 0; begin < pixels; begin += chunk) {
    const int count = pixels - begin < chunk ? pixels - begin : chunk;
    product_gradients(term, args, begin, count, panel, scratch);
    for (int block = 0; block < term.blocks; ++block) {
      const PartBlock here = part_block(term, block);
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(begin) * term.part_channels + here.first;
      store_block(scratch + block * panel, here.channels, count, at_element(args.before[here.part], at),
                  term.part_channels, args.grad_input[here.part] + at);
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
