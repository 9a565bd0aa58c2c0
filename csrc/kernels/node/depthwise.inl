// Depthwise k x k on one block of 16 channels: a row of output pixels from k rows that are already activated and
// zero-padded to the left and right. `middle` are the bias, slopes and caps of the result, [3][16], or null.
namespace pnf::PNF_ISA {
namespace {

template <typename State, int K>
PNF_INLINE Vec tap_weight(const float* weights, int ky, int kx, int lane) {
  if constexpr (sizeof(State) == sizeof(float)) {
    return load(weights + (ky * K + kx) * kBlock + lane);
  } else {
    const Vec pairs = load(weights + (ky / 2 * K + kx) * kBlock + lane);
    return ky % 2 == 0 && ky + 1 < K ? low_half(pairs) : high_half(pairs);
  }
}

// Where the sums of a lane start, and what becomes of them.
template <bool Has>
struct Middle {
  Vec bias, slope, cap;

  PNF_INLINE Middle of(const float* middle, int lane) {
    return {load(middle + lane), load(middle + kBlock + lane), load(middle + 2 * kBlock + lane)};
  }
  Vec start() const { return bias; }
  Vec finish(Vec sum) const { return at_most(prelu(sum, slope), cap); }
};

template <>
struct Middle<false> {
  PNF_INLINE Middle of(const float*, int) { return {}; }
  Vec start() const { return splat(0.0f); }
  Vec finish(Vec sum) const { return sum; }
};

// Each input pixel is loaded once per row and serves up to K outputs.
template <typename State, int K, int S, bool HasMiddle, int T>
PNF_INLINE void depthwise_tile(const float* const* rows, int ky_begin, int ky_end, int x, const float* weights,
                               const float* middle, float* out) {
#pragma GCC unroll 1
  for (int v = 0; v < kVecs; ++v) {
    const auto between = Middle<HasMiddle>::of(middle, v * kLanes);
    Vec acc[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) acc[t] = between.start();
#pragma GCC unroll 1
    for (int ky = ky_begin; ky < ky_end; ++ky) {
      const float* in = rows[ky] + x * S * kBlock + v * kLanes;
      Vec w[K];
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) w[kx] = tap_weight<State, K>(weights, ky, kx, v * kLanes);
#pragma GCC unroll 64
      for (int i = 0; i < (T - 1) * S + K; ++i) {
        const Vec value = load(in + i * kBlock);
#pragma GCC unroll 8
        for (int kx = 0; kx < K; ++kx) {
          const int t = (i - kx) / S;
          if (i >= kx && t < T && (i - kx) % S == 0) acc[t] = fma(value, w[kx], acc[t]);
        }
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) store(out + (x + t) * kBlock + v * kLanes, between.finish(acc[t]));
  }
}

template <typename State, int K, int S, bool HasMiddle>
void depthwise_row(const float* const* rows, int ky_begin, int ky_end, int width, const float* weights,
                   const float* middle, float* out) {
  int x = 0;
  for (; x + kDepthwisePixels <= width; x += kDepthwisePixels) {
    depthwise_tile<State, K, S, HasMiddle, kDepthwisePixels>(rows, ky_begin, ky_end, x, weights, middle, out);
  }
  if constexpr (kDepthwisePixels > 7) {
    for (; x + 7 <= width; x += 7) {
      depthwise_tile<State, K, S, HasMiddle, 7>(rows, ky_begin, ky_end, x, weights, middle, out);
    }
  }
  for (; x < width; ++x) {
    depthwise_tile<State, K, S, HasMiddle, 1>(rows, ky_begin, ky_end, x, weights, middle, out);
  }
}

using DepthwiseRow = void (*)(const float* const*, int, int, int, const float*, const float*, float*);

template <typename State, bool HasMiddle>
DepthwiseRow depthwise_row_of(int kernel, int stride) {
  switch (kernel * 2 + stride) {
    case 3 * 2 + 1:
      return depthwise_row<State, 3, 1, HasMiddle>;
    case 3 * 2 + 2:
      return depthwise_row<State, 3, 2, HasMiddle>;
    case 5 * 2 + 1:
      return depthwise_row<State, 5, 1, HasMiddle>;
    case 5 * 2 + 2:
      return depthwise_row<State, 5, 2, HasMiddle>;
    case 7 * 2 + 1:
      return depthwise_row<State, 7, 1, HasMiddle>;
    default:
      return depthwise_row<State, 7, 2, HasMiddle>;
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
