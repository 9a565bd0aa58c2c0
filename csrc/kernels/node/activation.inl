// What becomes of a state where a convolution reads it: PReLU, an upper bound, and before these the largest of 2x2 pixels.
namespace pnf::PNF_ISA {
namespace {

// PReLU's slopes and, where there are any, upper bounds of a block of 16 channels.
struct Activation {
  const float* slope;
  const float* cap;
};

template <typename State>
PNF_INLINE Activation activation_of(const TermOf<State>& term, int block) {
  return {term.slope + block * kBlock, term.cap == nullptr ? nullptr : term.cap + block * kBlock};
}

template <bool HasCap, typename State>
PNF_INLINE void activate_row(const State* in, int step, int pixels, const Activation& activation, float* out) {
  Vec slope[kVecs], cap[kVecs];
  for (int v = 0; v < kVecs; ++v) {
    slope[v] = load(activation.slope + v * kLanes);
    if constexpr (HasCap) cap[v] = load(activation.cap + v * kLanes);
  }
  for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      Vec value = prelu(load(in + p * step * kBlock + v * kLanes), slope[v]);
      if constexpr (HasCap) value = at_most(value, cap[v]);
      store(out + p * kBlock + v * kLanes, value);
    }
  }
}

template <typename State>
PNF_INLINE void activate_row(const State* in, int step, int pixels, const Activation& activation, float* out) {
  if (activation.cap == nullptr) {
    activate_row<false>(in, step, pixels, activation, out);
  } else {
    activate_row<true>(in, step, pixels, activation, out);
  }
}

// put(pixel, lane, value) for a row of the largest of 2 x 2 pixels; `in` at the upper left one, `row` elements from one row
// to the next.
template <typename State, typename Put>
PNF_INLINE void for_each_pooled(const State* in, std::ptrdiff_t row, int pixels, Put put) {
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    for (int p = 0; p < pixels; ++p) {
      const State* const window = in + 2 * p * kBlock + lane;
      const Vec upper = max_nan(load(window), load(window + kBlock));
      const Vec lower = max_nan(load(window + row), load(window + row + kBlock));
      put(p, lane, max_nan(upper, lower));
    }
  }
}

// The same with what becomes of them.
template <typename State, typename Put>
PNF_INLINE void for_each_pooled(const State* in, std::ptrdiff_t row, int pixels, const Activation& activation,
                                Put put) {
  for_each_pooled(in, row, pixels, [&](int p, int lane, Vec largest) {
    const Vec value = prelu(largest, load(activation.slope + lane));
    put(p, lane, activation.cap == nullptr ? value : at_most(value, load(activation.cap + lane)));
  });
}

}  // namespace
}  // namespace pnf::PNF_ISA
