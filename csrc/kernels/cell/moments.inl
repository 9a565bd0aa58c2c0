// Moments of the products and of their gradient, and sums of normalised operations. Include after blocks.inl.
namespace pnf::PNF_ISA {
namespace {

// Distances are taken from the first pixel, so that the squares do not cancel where the spread is far below the mean.
template <typename State>
void moments_of_channels(const ImageViewOf<State>& products, int channels, int pixels, double* mean, double* square) {
  for (int block = 0; block * kBlock < channels; ++block) {
    BlockReader<State> reader(products, block, channels_in(block, channels));
    alignas(64) float first[kBlock];
    load_block(reader.at(0, 1), kBlock, kBlock, 1, first);  // a copy: the reader's buffer is used again
    double sum[kBlock] = {}, squares[kBlock] = {};
    for (int begin = 0; begin < pixels; begin += kMomentPixels) {
      const int count = pixels - begin < kMomentPixels ? pixels - begin : kMomentPixels;
      const State* in = reader.at(begin, count);
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

template <typename State>
void moments_of_gradient(const CellTerm& term, const OutputGradientOf<State>& gradient,
                         const ImageViewOf<State>& products, const float* mean, double* sum, double* product_sum) {
  const int pixels = cell_pixels(term);
  for (int block = 0; block < term.out_blocks; ++block) {
    const int channels = channels_in(block, term.out_channels);
    BlockReader<State> gradients(view_of(gradient), block, channels), values(products, block, channels);
    for (int i = 0; i < kBlock; ++i) sum[block * kBlock + i] = product_sum[block * kBlock + i] = 0.0;
    for (int begin = 0; begin < pixels; begin += kMomentPixels) {
      const int count = pixels - begin < kMomentPixels ? pixels - begin : kMomentPixels;
      const State* g = gradients.at(begin, count);
      const State* in = values.at(begin, count);
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

// What `args` adds to `base`, or takes from it: base + sign * (scaled products + shifts + residuals). `base` may be null
// for zero.
template <typename State>
class Combination {
 public:
  Combination(const NormalizedSumOf<State>& args, float sign, const State* base)
      : args_(args), sign_(sign), base_(base) {}

  // Channels [first, first + count) of all pixels, those of the first one to `out`, `step` elements from pixel to pixel.
  void write(int first, int count, std::ptrdiff_t step, State* out) const {
    if (in_vectors(first, count)) {
      for (int v = 0; v < count; v += kLanes) write_vector(first + v, step, out + v);
    } else {
      for (int c = 0; c < count; ++c) write_channel(first + c, step, out + c);
    }
  }

 private:
  // Sources that are added up without going through memory.
  static constexpr int kMost = 4;

  struct Source {
    const State* data;
    std::ptrdiff_t step;
    Vec factor;
  };

  int sources() const { return 1 + args_.term_count + args_.residual_count; }

  static bool reaches(const NormalizedTermOf<State>& term, int first, int count) {
    return first < term.first_out + term.channels && term.first_out < first + count;
  }

  // Whether every term has all of these channels, one block of its own, or none.
  bool in_vectors(int first, int count) const {
    bool whole = count == kBlock;
    for (int t = 0; t < args_.term_count; ++t) {
      const NormalizedTermOf<State>& term = args_.terms[t];
      if (!reaches(term, first, count)) continue;
      whole = whole && term.first_out <= first && term.first_out + term.channels >= first + count &&
              (first - term.first_out) % kBlock == 0;
    }
    return whole;
  }

  // Where source i has the channels from `channel` on; false if it has none of them.
  bool find(int i, int channel, Source& source) const {
    if (i == 0) {
      if (base_ != nullptr) source = {base_ + channel, args_.channels, splat(1.0f)};
      return base_ != nullptr;
    }
    if (i <= args_.term_count) {
      const NormalizedTermOf<State>& term = args_.terms[i - 1];
      if (!reaches(term, channel, kLanes)) return false;
      const int own = channel - term.first_out;
      source = {term.products.data + own / kBlock * term.products.block + own % kBlock, term.products.step,
                mul(splat(sign_), load(term.scale + own))};
      return true;
    }
    source = {args_.residuals[i - 1 - args_.term_count] + channel, args_.channels, splat(sign_)};
    return true;
  }

  template <int N, typename Out>
  static void add_up(const Source (&sources)[kMost], int begin, int end, Vec start, const float* partial,
                     std::ptrdiff_t step, Out* out) {
    for (int p = begin; p < end; ++p) {
      Vec sum = partial == nullptr ? start : load(partial + (p - begin) * kLanes);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum = fma(load(sources[n].data + p * sources[n].step), sources[n].factor, sum);
      store(out + (p - begin) * step, sum);
    }
  }

  template <typename Out>
  static void add_up(int count, const Source (&sources)[kMost], int begin, int end, Vec start, const float* partial,
                     std::ptrdiff_t step, Out* out) {
    switch (count) {
      case 0:
        return add_up<0>(sources, begin, end, start, partial, step, out);
      case 1:
        return add_up<1>(sources, begin, end, start, partial, step, out);
      case 2:
        return add_up<2>(sources, begin, end, start, partial, step, out);
      case 3:
        return add_up<3>(sources, begin, end, start, partial, step, out);
      default:
        return add_up<4>(sources, begin, end, start, partial, step, out);
    }
  }

  void write_vector(int channel, std::ptrdiff_t step, State* out) const {
    Vec start = splat(0.0f);
    for (int t = 0; t < args_.term_count; ++t) {
      const NormalizedTermOf<State>& term = args_.terms[t];
      if (!reaches(term, channel, kLanes)) continue;
      start = add(start, mul(splat(sign_), load(term.shift + channel - term.first_out)));
    }
    alignas(64) float partial[kMomentPixels * kLanes];
    for (int begin = 0; begin < args_.pixels; begin += kMomentPixels) {
      const int end = args_.pixels - begin < kMomentPixels ? args_.pixels : begin + kMomentPixels;
      Source group[kMost];
      int count = 0;
      const float* before = nullptr;
      for (int i = 0; i < sources(); ++i) {
        Source source;
        if (!find(i, channel, source)) continue;
        if (count == kMost) {
          add_up<kMost>(group, begin, end, start, before, kLanes, partial);
          before = partial;
          count = 0;
        }
        group[count++] = source;
      }
      add_up(count, group, begin, end, start, before, step, out + begin * step);
    }
  }

  void write_channel(int channel, std::ptrdiff_t step, State* out) const {
    for (std::ptrdiff_t p = 0; p < args_.pixels; ++p) {
      float sum = base_ == nullptr ? 0.0f : value_of(base_[p * args_.channels + channel]);
      for (int t = 0; t < args_.term_count; ++t) {
        const NormalizedTermOf<State>& term = args_.terms[t];
        if (!reaches(term, channel, 1)) continue;
        const int own = channel - term.first_out;
        const State* in = term.products.data + own / kBlock * term.products.block + own % kBlock;
        sum += sign_ * (value_of(in[p * term.products.step]) * term.scale[own] + term.shift[own]);
      }
      for (int r = 0; r < args_.residual_count; ++r) {
        sum += sign_ * value_of(args_.residuals[r][p * args_.channels + channel]);
      }
      set_value(out[p * step], sum);
    }
  }

  const NormalizedSumOf<State>& args_;
  float sign_;
  const State* base_;
};

template <typename State>
void write_sum(const NormalizedSumOf<State>& args) {
  const Combination<State> combination(args, 1.0f, args.accumulate ? args.out : nullptr);
  for (int c = 0; c < args.channels; c += kBlock) {
    combination.write(c, channels_in(c / kBlock, args.channels), args.channels, args.out + c);
  }
}

template <typename State>
void write_remainder(const NormalizedSumOf<State>& others, const State* sum) {
  const Combination<State> combination(others, -1.0f, sum);
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(others.pixels) * kBlock;
  for (int block = 0; block * kBlock < others.channels; ++block) {
    const int channels = channels_in(block, others.channels);
    State* out = others.out + block * plane;
    combination.write(block * kBlock, channels, kBlock, out);
    for (int p = 0; p < others.pixels && channels < kBlock; ++p) {
      for (int c = channels; c < kBlock; ++c) set_value(out[p * kBlock + c], 0.0f);
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
