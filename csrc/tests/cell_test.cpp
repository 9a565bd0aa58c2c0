// The kernels that train a cell, on every available instruction set, against the equations of kernels/cell/cell.h
// evaluated in float64; then whole cells on several threads.
#include "kernels/cell/cell.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "check.h"
#include "kernels/dispatch.h"
#include "plan/cell.h"
#include "support.h"

namespace pnf::test {
namespace {

using Doubles = std::vector<double>;

// Compares results with float64: floats one by one; half precision by the norm of their errors, since every one of them
// stands for many roundings of random sign. A tap that is missing is a fiftieth of the norm at least.
template <typename State>
class Judge {
 public:
  static constexpr double kHalf = 3 * 0x1p-8;

  explicit Judge(std::string what) : what_(std::move(what)) {}
  ~Judge() {
    if (!std::is_same_v<State, Bf16>) return;
    CHECK(error_ <= kHalf * kHalf * norm_, "%s: the errors' norm is %.3g of %.3g", what_.c_str(), std::sqrt(error_),
          std::sqrt(norm_));
  }
  // In half precision `size` is that of what the result is made of; a float may be off by `limit`.
  void add(double actual, double wanted, double size, double limit, int index) {
    if constexpr (std::is_same_v<State, Bf16>) {
      error_ += (actual - wanted) * (actual - wanted);
      norm_ += wanted * wanted + size * size;
      if (std::isnan(actual)) error_ = std::numeric_limits<double>::infinity();
    } else {
      CHECK(std::abs(actual - wanted) <= limit, "%s: %d is %.9g, not %.9g", what_.c_str(), index, actual, wanted);
    }
  }

 private:
  std::string what_;
  double error_ = 0.0, norm_ = 0.0;
};

// One image of an operation: geometry, weights in torch's layouts, channels-last input per part.
struct Case {
  CellKind kind;
  int height, width, kernel, stride, offset, parts, part_channels, out_channels;
  std::vector<std::vector<float>> input;
  std::vector<float> slope, depthwise, pointwise;

  int channels() const { return parts * part_channels; }
  int out_height() const { return (height + stride - 1) / stride; }
  int out_width() const { return (width + stride - 1) / stride; }
  int pixels() const { return out_height() * out_width(); }
  double x(int c, int y, int column) const {
    return input[c / part_channels][(static_cast<std::size_t>(y) * width + column) * part_channels + c % part_channels];
  }
  std::string describe() const {
    return "kind " + std::to_string(static_cast<int>(kind)) + " " + std::to_string(kernel) + "x" +
           std::to_string(kernel) + "/" + std::to_string(stride) + "+" + std::to_string(offset) + " of " +
           std::to_string(parts) + "*" + std::to_string(part_channels) + "x" + std::to_string(height) + "x" +
           std::to_string(width) + " to " + std::to_string(out_channels);
  }
};

Case draw(CellKind kind, int kernel, int stride, Random& random) {
  constexpr int kChannels[] = {1, 3, 7, 8, 15, 16, 17, 24, 32, 33};
  Case c = {};
  c.kind = kind;
  c.kernel = kernel;
  c.stride = stride;
  c.height = random.integer(1, 19);
  c.width = random.integer(1, 19);
  if (kind == CellKind::kSeparable && kernel == 1 && stride == 2 && random.chance(2)) {
    c.offset = 1;
    c.height += c.height % 2;
    c.width += c.width % 2;
  }
  c.parts = kind == CellKind::kSeparable && random.chance(2) ? random.integer(2, 4) : 1;
  c.part_channels = random.pick(kChannels);
  c.out_channels = kind == CellKind::kSeparable ? random.pick(kChannels) : c.part_channels;
  for (int part = 0; part < c.parts; ++part) {
    c.input.push_back(random.reals(static_cast<std::size_t>(c.height) * c.width * c.part_channels, -1.0f, 1.0f));
    // Zeros and ties, for the derivatives of prelu and of the maximum.
    for (float& value : c.input.back()) {
      if (random.chance(8)) value = 0.0f;
    }
  }
  c.slope = random.reals(c.channels(), -0.5f, 1.0f);
  c.depthwise = random.reals(static_cast<std::size_t>(c.channels()) * kernel * kernel, -1.0f, 1.0f);
  c.pointwise = random.reals(static_cast<std::size_t>(c.channels()) * c.out_channels, -1.0f, 1.0f);
  return c;
}

// The operation and its derivative in float64. A kernel of 1 has its depthwise factor in `pointwise`, rounded.
class Exactly {
 public:
  explicit Exactly(const Case& c) : c_(c) {
    for (int o = 0; o < c.out_channels && c.kind == CellKind::kSeparable; ++o) {
      for (int i = 0; i < c.channels(); ++i) {
        const float factor = c.kernel == 1 ? c.depthwise[i] : 1.0f;
        pointwise_.push_back(c.pointwise[static_cast<std::size_t>(o) * c.channels() + i] * factor);
      }
    }
  }

  double pointwise(int o, int i) const { return pointwise_[static_cast<std::size_t>(o) * c_.channels() + i]; }

  // Calls body(y, x, tap) for the input pixels in the window of an output pixel, in the order of the rows.
  template <typename Body>
  void window(int y, int x, Body body) const {
    const int pad = c_.kernel / 2;
    for (int ky = 0; ky < c_.kernel; ++ky) {
      for (int kx = 0; kx < c_.kernel; ++kx) {
        const int iy = y * c_.stride + ky - pad + c_.offset, ix = x * c_.stride + kx - pad + c_.offset;
        if (iy >= 0 && iy < c_.height && ix >= 0 && ix < c_.width) body(iy, ix, ky * c_.kernel + kx);
      }
    }
  }

  double activated(int channel, int y, int x) const {
    const double value = c_.x(channel, y, x);
    return value > 0.0 ? value : value * c_.slope[channel];
  }

  double tap(int channel, int index) const {
    return c_.kernel == 1 ? 1.0 : c_.depthwise[static_cast<std::size_t>(channel) * c_.kernel * c_.kernel + index];
  }

  Exact filtered(int channel, int y, int x) const {
    Exact sum;
    window(y, x, [&](int iy, int ix, int t) { sum.add(activated(channel, iy, ix) * tap(channel, t)); });
    return sum;
  }

  Exact product(int o, int y, int x) const {
    Exact sum;
    if (c_.kind == CellKind::kSeparable) {
      for (int i = 0; i < c_.channels(); ++i) {
        const Exact f = filtered(i, y, x);
        sum.add(f.value * pointwise(o, i), f.magnitude * std::abs(pointwise(o, i)));
      }
      return sum;
    }
    int count = 0;
    double most = -std::numeric_limits<double>::infinity();
    window(y, x, [&](int iy, int ix, int) {
      sum.add(c_.x(o, iy, ix));
      most = std::max(most, c_.x(o, iy, ix));
      ++count;
    });
    if (c_.kind == CellKind::kMaxPool) return {most, std::abs(most)};
    return {sum.value / count, sum.magnitude / count};
  }

 private:
  const Case& c_;
  std::vector<float> pointwise_;
};

struct Packed {
  std::vector<float> slope, depthwise, reversed, pointwise, transposed;
};

// Puts a weight into its half of a word.
void set_half(float& word, bool upper, float weight) {
  const auto bits = std::bit_cast<std::uint32_t>(word);
  const auto half = static_cast<std::uint32_t>(to_state<Bf16>(weight));
  word = std::bit_cast<float>(bits | half << (upper ? 16 : 0));
}

// The same weights in pairs of half precision.
void pack_pairs(const Case& c, const Exactly& exact, const CellTerm& term, Packed& packed) {
  const int column = (c.kernel + 1) / 2, taps = column * c.kernel * kBlock, in = term.blocks, out = term.out_blocks;
  packed.depthwise.assign(static_cast<std::size_t>(in) * taps, 0.0f);
  packed.reversed = packed.depthwise;
  packed.pointwise.assign(static_cast<std::size_t>(in) * out * kBlock * kBlock / 2, 0.0f);
  packed.transposed = packed.pointwise;
  for (int i = 0; i < c.channels(); ++i) {
    const int lane = i / c.part_channels * term.part_blocks * kBlock + i % c.part_channels;
    for (int ky = 0; ky < c.kernel; ++ky) {
      for (int kx = 0; kx < c.kernel; ++kx) {
        const std::size_t at = static_cast<std::size_t>(lane / kBlock) * taps + lane % kBlock;
        const auto word = [&](int y, int x) { return at + (static_cast<std::size_t>(y / 2) * c.kernel + x) * kBlock; };
        const auto upper = [&](int y) { return y % 2 != 0 || y + 1 == c.kernel; };
        const float tap = c.depthwise[(static_cast<std::size_t>(i) * c.kernel + ky) * c.kernel + kx];
        const int back_y = c.kernel - 1 - ky, back_x = c.kernel - 1 - kx;
        set_half(packed.depthwise[word(ky, kx)], upper(ky), tap);
        set_half(packed.reversed[word(back_y, back_x)], upper(back_y), tap);
      }
    }
    for (int o = 0; o < c.out_channels; ++o) {
      const float weight = static_cast<float>(exact.pointwise(o, i));
      const std::size_t forth = static_cast<std::size_t>(o / kBlock) * in + lane / kBlock;
      const std::size_t back = static_cast<std::size_t>(lane / kBlock) * out + o / kBlock;
      set_half(packed.pointwise[(forth * kBlock / 2 + lane % kBlock / 2) * kBlock + o % kBlock], lane % 2 != 0, weight);
      set_half(packed.transposed[(back * kBlock / 2 + o % kBlock / 2) * kBlock + lane % kBlock], o % 2 != 0, weight);
    }
  }
}

CellTerm term_of(const Case& c, const Exactly& exact, bool pairs, Packed& packed) {
  CellTerm term = {};
  term.kind = c.kind;
  term.height = c.height;
  term.width = c.width;
  term.out_height = c.out_height();
  term.out_width = c.out_width();
  term.kernel = c.kernel;
  term.stride = c.stride;
  term.offset = c.offset;
  term.parts = c.parts;
  term.part_channels = c.part_channels;
  term.part_blocks = blocks_of(c.part_channels);
  term.blocks = c.parts * term.part_blocks;
  term.out_channels = c.out_channels;
  term.out_blocks = blocks_of(c.out_channels);
  if (c.kind != CellKind::kSeparable) return term;
  const int taps = c.kernel * c.kernel, in = term.blocks * kBlock, out = term.out_blocks * kBlock;
  packed.slope.assign(in, 0.0f);
  packed.depthwise.assign(static_cast<std::size_t>(in) * taps, 0.0f);
  packed.reversed = packed.depthwise;
  packed.pointwise.assign(static_cast<std::size_t>(in) * out, 0.0f);
  packed.transposed = packed.pointwise;
  for (int i = 0; i < c.channels(); ++i) {
    const int lane = i / c.part_channels * term.part_blocks * kBlock + i % c.part_channels;
    packed.slope[lane] = c.slope[i];
    for (int t = 0; t < taps; ++t) {
      const std::size_t block = static_cast<std::size_t>(lane) / kBlock * taps;
      packed.depthwise[(block + t) * kBlock + lane % kBlock] = c.depthwise[static_cast<std::size_t>(i) * taps + t];
      packed.reversed[(block + taps - 1 - t) * kBlock + lane % kBlock] =
          c.depthwise[static_cast<std::size_t>(i) * taps + t];
    }
    for (int o = 0; o < c.out_channels; ++o) {
      const float weight = static_cast<float>(exact.pointwise(o, i));
      packed.pointwise[((static_cast<std::size_t>(o) / kBlock * term.blocks + lane / kBlock) * kBlock + lane % kBlock) *
                           kBlock +
                       o % kBlock] = weight;
      packed
          .transposed[((static_cast<std::size_t>(lane) / kBlock * term.out_blocks + o / kBlock) * kBlock + o % kBlock) *
                          kBlock +
                      lane % kBlock] = weight;
    }
  }
  if (pairs) pack_pairs(c, exact, term, packed);
  term.slope = packed.slope.data();
  term.depthwise = packed.depthwise.data();
  term.reversed = packed.reversed.data();
  term.pointwise = packed.pointwise.data();
  term.transposed = packed.transposed.data();
  return term;
}

// The inputs of all parts.
template <typename State>
class Inputs {
 public:
  Inputs(const Case& c, bool misaligned) {
    for (const std::vector<float>& part : c.input) {
      held_.push_back(std::make_unique<ConstantsOf<State>>(part, misaligned));
      pointers_.push_back(held_.back()->get());
    }
  }
  const State* const* get() const { return pointers_.data(); }

 private:
  std::vector<std::unique_ptr<ConstantsOf<State>>> held_;
  std::vector<const State*> pointers_;
};

template <typename State, typename Set>
void check_products(const Case& c, const Exactly& exact, const CellTerm& term, const Set& set,
                    const Inputs<State>& inputs, Guarded& scratch, GuardedOf<State>& products) {
  Guarded filtered(filters_plane(term) ? static_cast<std::size_t>(term.blocks) * c.pixels() * kBlock : 0, false);
  scratch.poison();
  products.poison();
  set.cell_products(term, inputs.get(), 0, filtered.get(), products.get(), scratch.get());
  const std::string name = std::string(set.name) + " " + c.describe();
  CHECK(scratch.guards_intact() && products.guards_intact() && filtered.guards_intact(),
        "%s: cell_products writes outside its memory", name.c_str());
  const double n = (c.kernel * c.kernel + 16 * term.blocks + 6) * 0x1p-24;
  const double spread = std::sqrt(static_cast<double>(c.kernel) * c.kernel * c.channels());
  Judge<State> judge(name + ": products");
  for (int p = 0; p < c.pixels(); ++p) {
    for (int o = 0; o < term.out_blocks * kBlock; ++o) {
      const std::size_t at = (static_cast<std::size_t>(o) / kBlock * c.pixels() + p) * kBlock + o % kBlock;
      const float value = to_float(products.get()[at]);
      if (o >= c.out_channels) {
        CHECK(value == 0.0f, "%s: surplus channel %d of pixel %d is %.9g", name.c_str(), o, p, value);
        continue;
      }
      const Exact expected = exact.product(o, p / c.out_width(), p % c.out_width());
      judge.add(value, expected.value, expected.magnitude / spread, n / (1.0 - n) * expected.magnitude,
                static_cast<int>(at));
    }
  }
}

struct Factors {
  std::vector<float> mean, by_gradient, by_product, constant;
};

Factors draw_factors(const Case& c, Random& random) {
  const int lanes = blocks_of(c.out_channels) * kBlock;
  Factors factors;
  for (std::vector<float>* vector : {&factors.mean, &factors.by_gradient, &factors.by_product, &factors.constant}) {
    *vector = random.reals(lanes, -1.0f, 1.0f);
    std::fill(vector->begin() + c.out_channels, vector->end(), 0.0f);
  }
  return factors;
}

template <typename State, typename Set>
void check_moments(const Case& c, const CellTerm& term, const Set& set, const ImageViewOf<State>& view,
                   const OutputGradientOf<State>& gradient, const Factors& factors) {
  const int lanes = term.out_blocks * kBlock, pixels = c.pixels();
  Doubles mean(lanes), square(lanes), sum(lanes), product_sum(lanes);
  set.channel_moments(view, c.out_channels, pixels, mean.data(), square.data());
  set.gradient_moments(term, gradient, view, factors.mean.data(), sum.data(), product_sum.data());
  for (int o = 0; o < c.out_channels; ++o) {
    const auto value = [&](int p) -> double {
      return to_float(view.data[o / kBlock * view.block + p * view.step + o % kBlock]);
    };
    double middle = 0.0, squares = 0.0;
    Exact total, by_distance;
    for (int p = 0; p < pixels; ++p) middle += value(p) / pixels;
    for (int p = 0; p < pixels; ++p) {
      const double g = to_float(gradient.data[p * gradient.stride + gradient.first + o]);
      squares += (value(p) - middle) * (value(p) - middle);
      total.add(g);
      by_distance.add(g * (value(p) - factors.mean[o]));
    }
    const double reach = 64 * 0x1p-24 * (squares + pixels * (value(0) - middle) * (value(0) - middle)) + 1e-12;
    CHECK(std::abs(mean[o] - middle) < 1e-5 && std::abs(square[o] - squares) <= reach,
          "%s %s: moments of channel %d are %.9g and %.9g, not %.9g and %.9g", set.name, c.describe().c_str(), o,
          mean[o], square[o], middle, squares);
    CHECK(within(static_cast<float>(sum[o]), total, 64) && within(static_cast<float>(product_sum[o]), by_distance, 66),
          "%s %s: gradient moments of channel %d are %.9g and %.9g, not %.9g and %.9g", set.name, c.describe().c_str(),
          o, sum[o], product_sum[o], total.value, by_distance.value);
  }
}

// The gradients that cell_gradient writes, in float64, from dp.
struct Expected {
  Doubles input, pointwise, depthwise, slope;  // [parts][height][width][part_channels]; as the weights
  double pointwise_size = 0.0, depthwise_size = 0.0,
         slope_size = 0.0;  // of what a channel adds up, were its signs random
};

template <typename State>
Expected differentiate(const Case& c, const Exactly& exact, const ImageViewOf<State>& view, const Doubles& dp) {
  Expected e;
  const int channels = c.channels(), taps = c.kernel * c.kernel;
  e.input.assign(static_cast<std::size_t>(channels) * c.height * c.width, 0.0);
  e.pointwise.assign(static_cast<std::size_t>(channels) * c.out_channels, 0.0);
  e.depthwise.assign(static_cast<std::size_t>(channels) * taps, 0.0);
  e.slope.assign(channels, 0.0);
  const auto input_at = [&](int channel, int y, int x) -> double& {
    const std::size_t part = static_cast<std::size_t>(channel) / c.part_channels;
    return e.input[((part * c.height + y) * c.width + x) * c.part_channels + channel % c.part_channels];
  };
  for (int p = 0; p < c.pixels(); ++p) {
    const int y = p / c.out_width(), x = p % c.out_width();
    if (c.kind != CellKind::kSeparable) {
      for (int o = 0; o < c.out_channels; ++o) {
        const double g = dp[static_cast<std::size_t>(p) * c.out_channels + o];
        const float most = to_float(view.data[o / kBlock * view.block + p * view.step + o % kBlock]);
        int count = 0;
        bool given = false;
        exact.window(y, x, [&](int, int, int) { ++count; });
        exact.window(y, x, [&](int iy, int ix, int) {
          if (c.kind == CellKind::kAvgPool || c.kind == CellKind::kNormalize) input_at(o, iy, ix) += g / count;
          if (c.kind == CellKind::kMaxPool && !given && c.x(o, iy, ix) == most) {
            input_at(o, iy, ix) += g;
            given = true;
          }
        });
      }
      continue;
    }
    for (int i = 0; i < channels; ++i) {
      const double f = exact.filtered(i, y, x).value;
      double df = 0.0;
      for (int o = 0; o < c.out_channels; ++o) {
        const double g = dp[static_cast<std::size_t>(p) * c.out_channels + o];
        e.pointwise[static_cast<std::size_t>(o) * channels + i] += g * f;
        e.pointwise_size += g * g * f * f;
        df += g * exact.pointwise(o, i);
      }
      exact.window(y, x, [&](int iy, int ix, int t) {
        const double value = c.x(i, iy, ix), da = df * exact.tap(i, t);
        e.depthwise[static_cast<std::size_t>(i) * taps + t] += df * exact.activated(i, iy, ix);
        e.depthwise_size += df * df * exact.activated(i, iy, ix) * exact.activated(i, iy, ix);
        if (value < 0.0) e.slope_size += da * da * value * value;
        e.slope[i] += value > 0.0 ? 0.0 : da * value;
        input_at(i, iy, ix) += value > 0.0 ? da : da * c.slope[i];
      });
    }
  }
  e.pointwise_size = std::sqrt(e.pointwise_size / (channels * c.out_channels));
  e.depthwise_size = std::sqrt(e.depthwise_size / (channels * taps));
  e.slope_size = std::sqrt(e.slope_size / channels);
  return e;
}

double largest(const Doubles& values) {
  double most = 0.0;
  for (const double value : values) most = std::max(most, std::abs(value));
  return most;
}

template <typename State, typename Set>
void check_gradient(const Case& c, const Exactly& exact, const CellTerm& term, const Set& set,
                    const Inputs<State>& inputs, const ImageViewOf<State>& view,
                    const OutputGradientOf<State>& gradient, const Factors& factors, bool accumulate, bool misaligned,
                    Guarded& scratch) {
  Doubles dp;
  for (int p = 0; p < c.pixels(); ++p) {
    for (int o = 0; o < c.out_channels; ++o) {
      const double value = to_float(view.data[o / kBlock * view.block + p * view.step + o % kBlock]);
      dp.push_back(factors.by_gradient[o] * to_float(gradient.data[p * gradient.stride + gradient.first + o]) +
                   factors.by_product[o] * (value - factors.mean[o]) + factors.constant[o]);
    }
  }
  const Expected expected = differentiate(c, exact, view, dp);

  const std::size_t part_elements = static_cast<std::size_t>(c.height) * c.width * c.part_channels;
  std::vector<std::unique_ptr<GuardedOf<State>>> memory;
  std::vector<State*> grad_input;
  std::vector<const State*> before;
  for (int part = 0; part < c.parts; ++part) {
    memory.push_back(std::make_unique<GuardedOf<State>>(part_elements, misaligned));
    grad_input.push_back(memory.back()->get());
    if (accumulate) std::fill(grad_input.back(), grad_input.back() + part_elements, to_state<State>(0.5f));
    before.push_back(accumulate ? grad_input.back() : nullptr);
  }
  const int lanes = term.blocks * kBlock, taps = c.kernel * c.kernel;
  Doubles by_pointwise(static_cast<std::size_t>(term.out_blocks) * kBlock * lanes, 1.0);
  Doubles by_depthwise(static_cast<std::size_t>(lanes) * taps, 1.0), by_slope(lanes, 1.0);
  scratch.poison();
  set.cell_gradient(term,
                    {inputs.get(), gradient, view, factors.mean.data(), factors.by_gradient.data(),
                     factors.by_product.data(), factors.constant.data(), grad_input.data(), before.data(), 0,
                     by_pointwise.data(), by_depthwise.data(), by_slope.data()},
                    scratch.get());

  const std::string name = std::string(set.name) + " " + c.describe() + ": gradients of ";
  CHECK(scratch.guards_intact(), "%s: cell_gradient writes outside its scratch", name.c_str());
  {
    Judge<State> judge(name + "the input");
    const double scale = largest(expected.input), before = accumulate ? 0.5 : 0.0;
    for (int part = 0; part < c.parts; ++part) {
      CHECK(memory[part]->guards_intact(), "%s: cell_gradient writes outside grad_input", name.c_str());
      for (std::size_t i = 0; i < part_elements; ++i) {
        judge.add(to_float(grad_input[part][i]), before + expected.input[part * part_elements + i], 0.0,
                  2e-5 * scale + 1e-6, static_cast<int>(i));
      }
    }
  }
  if (c.kind != CellKind::kSeparable) return;
  const double slopes = largest(expected.slope), depthwise = largest(expected.depthwise);
  const double pointwise = largest(expected.pointwise);
  Judge<State> of_slope(name + "the slope"), of_depthwise(name + "depthwise"), of_pointwise(name + "pointwise");
  for (int i = 0; i < c.channels(); ++i) {
    const int lane = i / c.part_channels * term.part_blocks * kBlock + i % c.part_channels;
    of_slope.add(by_slope[lane] - 1.0, expected.slope[i], expected.slope_size, 2e-5 * slopes + 1e-6, i);
    for (int t = 0; t < taps && c.kernel > 1; ++t) {
      of_depthwise.add(
          by_depthwise[(static_cast<std::size_t>(lane) / kBlock * taps + t) * kBlock + lane % kBlock] - 1.0,
          expected.depthwise[static_cast<std::size_t>(i) * taps + t], expected.depthwise_size, 2e-5 * depthwise + 1e-6,
          i);
    }
    for (int o = 0; o < c.out_channels; ++o) {
      const std::size_t block = static_cast<std::size_t>(o) / kBlock * term.blocks + lane / kBlock;
      of_pointwise.add(by_pointwise[(block * kBlock + o % kBlock) * kBlock + lane % kBlock] - 1.0,
                       expected.pointwise[static_cast<std::size_t>(o) * c.channels() + i], expected.pointwise_size,
                       2e-5 * pointwise + 1e-6, i);
    }
  }
}

template <typename State>
void run_in(Case c, Random& random) {
  for (std::vector<float>& part : c.input) part = rounded<State>(part);
  const Exactly exact(c);
  const bool misaligned = random.chance(2);
  const Inputs<State> inputs(c, misaligned);
  const Factors factors = draw_factors(c, random);

  // The operation adds to some of a sum's channels.
  const int first = random.integer(0, 9), stride = first + c.out_channels + random.integer(0, 9);
  const std::size_t count = static_cast<std::size_t>(c.pixels()) * stride;
  const ConstantsOf<State> gradients(random.reals(count, -1.0f, 1.0f), misaligned);
  const ConstantsOf<State> values(random.reals(count, -1.0f, 1.0f), misaligned);
  const OutputGradientOf<State> gradient = {gradients.get(), stride, first};
  for (const auto& set : kernel_sets(State{})) {
    if (!is_tested(set)) continue;
    Packed packed;
    const CellTerm term = term_of(c, exact, set.pairs, packed);
    Guarded scratch(cell_scratch(term), misaligned);
    GuardedOf<State> products(static_cast<std::size_t>(term.out_blocks) * c.pixels() * kBlock, misaligned);
    ImageViewOf<State> view = {products.get(), kBlock, static_cast<std::ptrdiff_t>(c.pixels()) * kBlock, true};
    if (c.kind == CellKind::kNormalize) {
      view = {inputs.get()[0], c.part_channels, kBlock, false};
    } else {
      check_products(c, exact, term, set, inputs, scratch, products);
    }
    check_moments(c, term, set, view, gradient, factors);
    check_gradient(c, exact, term, set, inputs, view, gradient, factors, random.chance(2), misaligned, scratch);
    if (c.kind != CellKind::kSeparable) continue;
    const ImageViewOf<State> sum = {values.get() + first, stride, kBlock, false};
    check_moments(c, term, set, sum, gradient, factors);
    check_gradient(c, exact, term, set, inputs, sum, gradient, factors, random.chance(2), misaligned, scratch);
  }
}

void run(const Case& c, Random& random) {
  run_in<float>(c, random);
  run_in<Bf16>(c, random);
}

void every_operation() {
  Random random(1);
  for (const int stride : {1, 2}) {
    for (int repetition = 0; repetition < 12 / kOneCaseIn; ++repetition) {
      for (const int kernel : {1, 3, 5, 7}) run(draw(CellKind::kSeparable, kernel, stride, random), random);
      run(draw(CellKind::kMaxPool, 3, stride, random), random);
      run(draw(CellKind::kAvgPool, 3, stride, random), random);
      if (stride == 1) run(draw(CellKind::kNormalize, 1, 1, random), random);
    }
  }
}

template <typename State>
void sums() {
  // In half precision a sum is rounded once or, in two steps, twice, and what remains of it has its rounding.
  constexpr bool kHalf = sizeof(State) < sizeof(float);
  constexpr double kSum = kHalf ? 0.04 : 2e-6, kRemainder = kHalf ? 0.05 : 3e-6;
  Random random(2);
  for (const int channels : {1, 8, 16, 17, 32, 40, 64}) {
    for (const int pixels : {1, 5, 63, 64, 65, 200}) {
      const int blocks = blocks_of(channels), lanes = blocks * kBlock;
      const std::size_t plane = static_cast<std::size_t>(pixels) * kBlock;
      std::vector<std::vector<float>> products, scales, shifts, residuals;
      std::vector<ConstantsOf<State>> held, held_residuals;
      std::vector<NormalizedTermOf<State>> terms;
      for (int t = 0; t < 2; ++t) {
        products.push_back(rounded<State>(random.reals(blocks * plane, -1.0f, 1.0f)));
        scales.push_back(random.reals(lanes, -1.0f, 1.0f));
        shifts.push_back(random.reals(lanes, -1.0f, 1.0f));
        for (int c = channels; c < lanes; ++c) {
          scales[t][c] = shifts[t][c] = 0.0f;
          for (int p = 0; p < pixels; ++p) products[t][(blocks - 1) * plane + p * kBlock + c % kBlock] = 0.0f;
        }
        residuals.push_back(rounded<State>(random.reals(static_cast<std::size_t>(pixels) * channels, -1.0f, 1.0f)));
        held.emplace_back(products[t], false);
        held_residuals.emplace_back(residuals[t], false);
      }
      for (int t = 0; t < 2; ++t) {
        terms.push_back({{held[t].get(), kBlock, static_cast<std::ptrdiff_t>(plane), true},
                         scales[t].data(),
                         shifts[t].data(),
                         0,
                         channels});
      }
      // The first one once more as kNormalize has it: channels-last, nothing after its last channel.
      std::vector<float> planar(static_cast<std::size_t>(pixels) * channels);
      for (int p = 0; p < pixels; ++p) {
        for (int c = 0; c < channels; ++c) {
          planar[static_cast<std::size_t>(p) * channels + c] =
              products[0][c / kBlock * plane + p * kBlock + c % kBlock];
        }
      }
      const ConstantsOf<State> as_they_lie(planar, true);
      const NormalizedTermOf<State> first = {
          {as_they_lie.get(), channels, kBlock, false}, scales[0].data(), shifts[0].data(), 0, channels};
      const State* residual[] = {held_residuals[0].get(), held_residuals[1].get()};
      const auto part = [&](int t, int p, int c) {
        return static_cast<double>(scales[t][c]) * products[t][c / kBlock * plane + p * kBlock + c % kBlock] +
               shifts[t][c];
      };
      for (const auto& set : kernel_sets(State{})) {
        if (!is_tested(set)) continue;
        GuardedOf<State> out(static_cast<std::size_t>(pixels) * channels, true), rest(blocks * plane, true);
        // At once, or the second term and residual on top of the first.
        const int at_once = random.integer(1, 2);
        set.normalize_sum({pixels, channels, terms.data(), at_once, residual, at_once, false, out.get()});
        if (at_once == 1) {
          set.normalize_sum({pixels, channels, terms.data() + 1, 1, residual + 1, 1, true, out.get()});
        }
        set.remaining_result(
            {pixels, channels, random.chance(2) ? &first : terms.data(), 1, residual, 2, false, rest.get()}, out.get());
        CHECK(out.guards_intact() && rest.guards_intact(), "%s: a sum of %d channels writes outside its memory",
              set.name, channels);
        for (int p = 0; p < pixels; ++p) {
          for (int c = 0; c < lanes; ++c) {
            const float left = to_float(rest.get()[c / kBlock * plane + p * kBlock + c % kBlock]);
            const std::size_t at = static_cast<std::size_t>(p) * channels + c;
            const double expected = c < channels ? part(1, p, c) : 0.0;
            CHECK(std::abs(left - expected) < kRemainder, "%s: channel %d of what remains is %.9g, not %.9g", set.name,
                  c, left, expected);
            if (c >= channels) continue;
            const double sum = part(0, p, c) + part(1, p, c) + residuals[0][at] + residuals[1][at];
            CHECK(std::abs(to_float(out.get()[at]) - sum) < kSum, "%s: channel %d of a sum is %.9g, not %.9g", set.name,
                  c, to_float(out.get()[at]), sum);
          }
        }
      }
    }
  }
}

// A cell of three sums on its inputs, run through plan/cell.
template <typename State>
class WholeCell {
 public:
  explicit WholeCell(Random& random) {
    cell_.images = 5;
    cell_.inputs = 2;
    constexpr int kChannels = 17, kSize = 9;
    for (int i = 0; i < 5; ++i) cell_.states.push_back({kChannels, kSize, kSize});
    add(CellKind::kSeparable, 0, 0, 2, 3, random);
    add(CellKind::kSeparable, 1, 2, 1, 5, random);
    add(CellKind::kMaxPool, 1, 0, 1, 3, random);
    cell_.residuals.push_back({1, 1});
    add(CellKind::kSeparable, 2, 3, 1, 1, random);
    add(CellKind::kNormalize, 2, 1, 1, 1, random, false);
    add(CellKind::kSeparable, 2, 2, 1, 7, random);
    image_ = static_cast<std::size_t>(kChannels) * kSize * kSize;
    for (int i = 0; i < 5; ++i) states_.push_back(drawn(random));
    gradient_ = drawn(random);
  }

  // Everything that the two calls write.
  std::vector<float> run(int threads) const {
    std::vector<std::vector<State>> states = states_;
    std::vector<State*> pointers;
    for (std::vector<State>& state : states) pointers.push_back(state.data());
    Doubles mean(channels_), variance(channels_);
    cell_forward(cell_, threads, pointers, mean.data(), variance.data());
    std::vector<std::vector<State>> by_inputs(2, std::vector<State>(image_ * cell_.images, to_state<State>(kNan)));
    std::vector<std::vector<float>> results;
    for (const std::size_t size : sizes_) results.emplace_back(size, kNan);
    std::vector<OperationGradient> gradients;
    std::size_t next = 0;
    for (const CellOperation& operation : cell_.operations) {
      OperationGradient g = {};
      if (operation.kind == CellKind::kSeparable) {
        g.slope = results[next++].data();
        g.depthwise = results[next++].data();
        g.pointwise = results[next++].data();
      }
      g.gamma = results[next++].data();
      if (operation.normalized) g.beta = results[next++].data();
      gradients.push_back(g);
    }
    cell_backward<State>(cell_, threads, {pointers.begin(), pointers.end()}, mean.data(), variance.data(),
                         {nullptr, nullptr, gradient_.data()}, {by_inputs[0].data(), by_inputs[1].data()}, gradients);
    std::vector<float> all;
    const auto append = [&all](const std::vector<State>& state) {
      for (const State value : state) all.push_back(to_float(value));
    };
    for (int i = cell_.inputs; i < 5; ++i) append(states[i]);
    for (const std::vector<State>& by_input : by_inputs) append(by_input);
    for (const std::vector<float>& result : results) all.insert(all.end(), result.begin(), result.end());
    return all;
  }

 private:
  std::vector<State> drawn(Random& random) const {
    std::vector<State> state;
    for (const float value : random.reals(image_ * cell_.images, -1.0f, 1.0f)) state.push_back(to_state<State>(value));
    return state;
  }

  void add(CellKind kind, int sum, int first_state, int parts, int kernel, Random& random, bool normalized = true) {
    const int out = cell_.states[0].channels, in = parts * out;
    CellOperation operation = {};
    operation.kind = kind;
    operation.sum = sum;
    operation.first_state = first_state;
    operation.parts = parts;
    operation.kernel = kernel;
    operation.stride = 1;
    operation.out_channels = out;
    operation.normalized = normalized;
    operation.epsilon = 1e-5;
    if (kind == CellKind::kSeparable) {
      operation.slope = weights(in, random);
      operation.depthwise = weights(static_cast<std::size_t>(in) * kernel * kernel, random);
      operation.pointwise = weights(static_cast<std::size_t>(in) * out, random);
    }
    operation.gamma = weights(out, random);
    if (normalized) operation.beta = weights(out, random);
    cell_.operations.push_back(operation);
    if (normalized) channels_ += out;
  }

  const float* weights(std::size_t count, Random& random) {
    weights_.push_back(std::make_unique<std::vector<float>>(random.reals(count, 0.25f, 1.0f)));
    sizes_.push_back(count);
    return weights_.back()->data();
  }

  Cell cell_;
  int channels_ = 0;
  std::size_t image_ = 0;
  std::vector<std::unique_ptr<std::vector<float>>> weights_;
  std::vector<std::size_t> sizes_;
  std::vector<std::vector<State>> states_;
  std::vector<State> gradient_;
};

template <typename State>
void threads() {
  Random random(3);
  const WholeCell<State> cell(random);
  for (const int count : {1, 2, 3, 8}) {
    const std::vector<float> expected = cell.run(count);
    CHECK(std::all_of(expected.begin(), expected.end(), [](float x) { return std::isfinite(x); }),
          "a result of %d threads is not finite or was not written", count);
    const std::vector<float> again = cell.run(count);
    CHECK(same_bits(expected.data(), again.data(), expected.size()), "%d threads give other bits the second time",
          count);
  }
  // Callers at the same time get memories of their own. Whoever finds the pool taken runs on one thread.
  const std::vector<float> alone = cell.run(1);
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> callers;
  for (std::vector<float>& result : found) {
    callers.emplace_back([&cell, &result] { result = cell.run(1); });
  }
  for (std::thread& caller : callers) caller.join();
  for (const std::vector<float>& result : found) {
    CHECK(same_bits(alone.data(), result.data(), alone.size()), "concurrent callers give other bits");
  }
}

}  // namespace
}  // namespace pnf::test

int main() {
  pnf::test::every_operation();
  pnf::test::sums<float>();
  pnf::test::sums<pnf::Bf16>();
  pnf::test::threads<float>();
  pnf::test::threads<pnf::Bf16>();
  return check::result();
}
