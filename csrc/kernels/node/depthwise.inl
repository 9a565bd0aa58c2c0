// Depthwise k x k on one block of 16 channels: a row of output pixels from k rows that are already activated and
// zero-padded to the left and right. `middle` are the bias, slopes and caps of the result, [3][16], or null.
namespace pnf::PNF_ISA {
namespace {

// What becomes of a convolution's sums: nothing, any PReLU with an upper bound, or ReLU alone.
enum class MiddleKind { kNone, kAny, kRelu };

// Where the sums of a lane start, and what becomes of those of a tile. It is asked for each tile and not once for a row: a
// branch that always goes the same way costs less than code for each kind.
struct Middle {
  MiddleKind kind;
  const float* values;  // of kNone 16 zeros

  Vec start(int lane) const { return load(values + lane); }

  template <int T>
  void finish(int lane, Vec (&sums)[T]) const {
    if (kind == MiddleKind::kNone) return;
    if (kind == MiddleKind::kRelu) {
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sums[t] = relu(sums[t]);
      return;
    }
    const Vec slope = load(values + kBlock + lane), cap = load(values + 2 * kBlock + lane);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sums[t] = at_most(prelu(sums[t], slope), cap);
  }
};

alignas(64) constexpr float kZeroPixel[kBlock] = {};
constexpr Middle kNoMiddle = {MiddleKind::kNone, kZeroPixel};

constexpr float kMostFloat = 0x1.fffffep127f;

// Slopes of 0 and no upper bound are one instruction instead of four.
inline MiddleKind middle_kind(const float* middle, int blocks) {
  if (middle == nullptr) return MiddleKind::kNone;
  for (int block = 0; block < blocks; ++block, middle += 3 * kBlock) {
    for (int i = 0; i < kBlock; ++i) {
      if (middle[kBlock + i] != 0.0f || middle[2 * kBlock + i] < kMostFloat) {
        return MiddleKind::kAny;
      }
    }
  }
  return MiddleKind::kRelu;
}

// Adds to the sums of T neighbouring windows what they make of a row of pixels from `in` on and a row of K weights. Each
// pixel is loaded once and serves up to K windows.
template <int K, int S, int T, typename Product>
PNF_INLINE void add_taps(const float* in, const Vec* w, Vec (&acc)[T], Product product) {
#pragma GCC unroll 64
  for (int i = 0; i < (T - 1) * S + K; ++i) {
    const Vec value = load(in + i * kBlock);
#pragma GCC unroll 8
    for (int kx = 0; kx < K; ++kx) {
      const int t = (i - kx) / S;
      if (i >= kx && t < T && (i - kx) % S == 0) acc[t] = product(value, w[kx], acc[t]);
    }
  }
}

// Where a row's results go as floats, kBlock apart.
struct FloatRow {
  using Element = float;
  template <int T>
  PNF_INLINE void put(float* out, int pixel, int lane, const Vec (&values)[T]) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) store(out + (pixel + t) * kBlock + lane, values[t]);
  }
};

template <int K, int S, int T, typename Row>
PNF_INLINE void depthwise_tile(const float* const* rows, int ky_begin, int ky_end, int x, const float* weights,
                               const Middle& middle, typename Row::Element* out) {
#pragma GCC unroll 1
  for (int v = 0; v < kVecs; ++v) {
    const Vec start = middle.start(v * kLanes);
    Vec acc[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) acc[t] = start;
#pragma GCC unroll 1
    for (int ky = ky_begin; ky < ky_end; ++ky) {
      const float* in = rows[ky] + x * S * kBlock + v * kLanes;
      Vec w[K];
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) w[kx] = load(weights + (ky * K + kx) * kBlock + v * kLanes);
      add_taps<K, S>(in, w, acc, [](Vec a, Vec b, Vec c) { return fma(a, b, c); });
    }
    middle.finish(v * kLanes, acc);
    Row::put(out, x, v * kLanes, acc);
  }
}

// Whether there are registers for all weights of a 3x3 window beside the sums of a tile: not where a vector takes several.
constexpr bool kKeepsWindow = kVecs == 1 && kDepthwisePixels >= 7;

// The same for whole windows, with their weights in registers over a row.
template <int K, int S, int T, typename Row>
PNF_INLINE void whole_window_tile(const float* const* rows, int x, const Vec (&w)[K * K], Vec start,
                                  const Middle& middle, typename Row::Element* out) {
  Vec acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) acc[t] = start;
#pragma GCC unroll 8
  for (int ky = 0; ky < K; ++ky) {
    const float* const in = rows[ky] + x * S * kBlock;
    add_taps<K, S>(in, w + ky * K, acc, [](Vec a, Vec b, Vec c) { return fma(a, b, c); });
  }
  middle.finish(0, acc);
  Row::put(out, x, 0, acc);
}

// As many pixels of a row as tiles have; how many these are.
template <int K, int S, typename Row>
int whole_window_row(const float* const* rows, int width, const float* weights, const Middle& middle,
                     typename Row::Element* out) {
  Vec w[K * K];
#pragma GCC unroll 16
  for (int i = 0; i < K * K; ++i) w[i] = load(weights + i * kBlock);
  const Vec start = middle.start(0);
  int x = 0;
  for (; x + kDepthwisePixels <= width; x += kDepthwisePixels) {
    whole_window_tile<K, S, kDepthwisePixels, Row>(rows, x, w, start, middle, out);
  }
  return x;
}

template <int K, int S, typename Row>
void depthwise_row(const float* const* rows, int ky_begin, int ky_end, int width, const float* weights,
                   const Middle& middle, typename Row::Element* out) {
  int x = 0;
  if constexpr (K == 3 && kKeepsWindow) {
    if (ky_end - ky_begin == K) x = whole_window_row<K, S, Row>(rows, width, weights, middle, out);
  }
  for (; x + kDepthwisePixels <= width; x += kDepthwisePixels) {
    depthwise_tile<K, S, kDepthwisePixels, Row>(rows, ky_begin, ky_end, x, weights, middle, out);
  }
  if constexpr (kDepthwisePixels > 7) {
    for (; x + 7 <= width; x += 7) {
      depthwise_tile<K, S, 7, Row>(rows, ky_begin, ky_end, x, weights, middle, out);
    }
  }
  for (; x < width; ++x) {
    depthwise_tile<K, S, 1, Row>(rows, ky_begin, ky_end, x, weights, middle, out);
  }
}

template <typename Element>
using DepthwiseRowOf = void (*)(const float* const*, int, int, int, const float*, const Middle&, Element*);
using DepthwiseRow = DepthwiseRowOf<float>;

template <typename Row = FloatRow>
DepthwiseRowOf<typename Row::Element> depthwise_row_of(int kernel, int stride) {
  switch (kernel * 2 + stride) {
    case 3 * 2 + 1:
      return depthwise_row<3, 1, Row>;
    case 3 * 2 + 2:
      return depthwise_row<3, 2, Row>;
    case 5 * 2 + 1:
      return depthwise_row<5, 1, Row>;
    case 5 * 2 + 2:
      return depthwise_row<5, 2, Row>;
    case 7 * 2 + 1:
      return depthwise_row<7, 1, Row>;
    default:
      return depthwise_row<7, 2, Row>;
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
