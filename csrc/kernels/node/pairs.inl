// The inputs of a node's product, from states and weights of half precision, where a word's two products take one
// instruction: PReLU, and depthwise windows by pairs of rows. Include after rows.inl and a vocabulary from kernels/simd
// that has `dot`.
//
// Panels hold Bf16. A ring holds words of two rows, the one above and the row itself, so that a column of taps takes
// (k + 1) / 2 products; the last row of an odd window meets a zero weight in its lower half.
namespace pnf::PNF_ISA {
namespace {

constexpr int kMaxPairs = (kMaxKernel + 1) / 2;

PNF_INLINE Bf16* halves(float* words) { return reinterpret_cast<Bf16*>(words); }

// `Step` elements from a pixel of the output to the next.
template <int Step>
PNF_INLINE void activate_row(const Bf16* in, int pixels, const float* slope, Bf16* out) {
  const TwoSlopes slopes = two_slopes(slope);
  int p = 0;
  for (; p + 2 <= pixels; p += 2) {
    const auto two = prelu_two(load_two(in + p * kBlock), slopes);
    if constexpr (Step == kBlock) {
      store_two(out + p * Step, two);
    } else {
      store_each(out + p * Step, out + (p + 1) * Step, two);
    }
  }
  if (p < pixels) store(out + p * Step, prelu(load(in + p * kBlock), load(slope)));
}

// A pair of rows holds words of the row above, in their lower halves, and of the row itself. That of the activated `in`,
// below the row of `previous`:
PNF_INLINE void pair_rows(const float* previous, const Bf16* in, int pixels, const float* slope, float* out) {
  const TwoSlopes slopes = two_slopes(slope);
  int p = 0;
  for (; p + 2 <= pixels; p += 2) {
    store_pairs_of_two(out + p * kBlock, previous + p * kBlock, prelu_two(load_two(in + p * kBlock), slopes));
  }
  if (p < pixels) {
    const Vec row = prelu(load(in + p * kBlock), load(slope));
    store_pair(out + p * kBlock, load(previous + p * kBlock), row);
  }
}

// The same with zeros for the row below the image.
PNF_INLINE void pair_last_row(const float* previous, int pixels, float* out) {
  for (int p = 0; p < pixels; ++p) store_pair(out + p * kBlock, load(previous + p * kBlock), splat(0.0f));
}

// Rows of the ring and the weights that they meet.
struct Taps {
  const float* rows[kMaxPairs];
  const float* weights[kMaxPairs];
  int count;
};

// Results of T pixels, `Step` elements from one to the next.
template <int T, int Step>
PNF_INLINE void store_pixels(const Vec (&values)[T], Bf16* out) {
#pragma GCC unroll 8
  for (int t = 0; t + 2 <= T; t += 2) {
    const auto two = round_two(values[t], values[t + 1]);
    if constexpr (Step == kBlock) {
      store_two(out + t * Step, two);
    } else {
      store_each(out + t * Step, out + (t + 1) * Step, two);
    }
  }
  if constexpr (T % 2 != 0) store(out + (T - 1) * Step, values[T - 1]);
}

template <int K, int S, int Step, int T>
PNF_INLINE void depthwise_pair_tile(const Taps& taps, int x, Bf16* out) {
  Vec acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) acc[t] = splat(0.0f);
#pragma GCC unroll 1
  for (int j = 0; j < taps.count; ++j) {
    const float* in = taps.rows[j] + x * S * kBlock;
    Vec w[K];
#pragma GCC unroll 8
    for (int kx = 0; kx < K; ++kx) w[kx] = load(taps.weights[j] + kx * kBlock);
#pragma GCC unroll 64
    for (int i = 0; i < (T - 1) * S + K; ++i) {
      const Vec value = load(in + i * kBlock);
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) {
        const int t = (i - kx) / S;
        if (i >= kx && t < T && (i - kx) % S == 0) acc[t] = dot(value, w[kx], acc[t]);
      }
    }
  }
  store_pixels<T, Step>(acc, out + x * Step);
}

template <int K, int S, int Step>
void depthwise_pair_row(const Taps& taps, int width, Bf16* out) {
  int x = 0;
  for (; x + kDepthwisePixels <= width; x += kDepthwisePixels) {
    depthwise_pair_tile<K, S, Step, kDepthwisePixels>(taps, x, out);
  }
  for (; x + 7 <= width; x += 7) depthwise_pair_tile<K, S, Step, 7>(taps, x, out);
  for (; x < width; ++x) depthwise_pair_tile<K, S, Step, 1>(taps, x, out);
}

using DepthwisePairRow = void (*)(const Taps&, int, Bf16*);

template <int Step>
DepthwisePairRow depthwise_pair_row_of(int kernel, int stride) {
  switch (kernel * 2 + stride) {
    case 3 * 2 + 1:
      return depthwise_pair_row<3, 1, Step>;
    case 3 * 2 + 2:
      return depthwise_pair_row<3, 2, Step>;
    case 5 * 2 + 1:
      return depthwise_pair_row<5, 1, Step>;
    case 5 * 2 + 2:
      return depthwise_pair_row<5, 2, Step>;
    case 7 * 2 + 1:
      return depthwise_pair_row<7, 1, Step>;
    default:
      return depthwise_pair_row<7, 2, Step>;
  }
}

// One depthwise term in progress: its ring, and the first pair of rows that is not in the ring yet. Pair r is of the
// rows r - 1 and r; pair 0 and the pair after the last row have one row of zeros.
struct PairStage {
  const TermOf<Bf16>* term;
  DepthwisePairRow row;
  float* ring;
  int next;

  float* slot(int block, int pair) const {
    const int kernel = term->kernel, at = block * kernel + (pair + kernel) % kernel;
    return ring + static_cast<std::ptrdiff_t>(at) * ring_width(*term) * kBlock;
  }
  // The same without its padding.
  float* pixels(int block, int pair) const { return slot(block, pair) + term->kernel / 2 * kBlock; }
  const Bf16* row_of(int block, int y) const {
    return term->input + block * term->block_stride + static_cast<std::ptrdiff_t>(y) * term->width * kBlock;
  }

  // Zeros beside the rows; and pair `next` will look for the row above it in the pair before.
  void begin() const {
    const int pad = term->kernel / 2;
    for (int block = 0; block < term->blocks; ++block) {
      for (int pair = 0; pair < term->kernel; ++pair) {
        clear(slot(block, pair), pad * kBlock);
        clear(pixels(block, pair) + term->width * kBlock, pad * kBlock);
      }
      float* const before = pixels(block, next - 1);
      clear(before, term->width * kBlock);
      if (next > 0 && next <= term->height) {
        pair_rows(before, row_of(block, next - 1), term->width, term->slope + block * kBlock, before);
      }
    }
  }

  void add_pair(int block, int pair) const {
    if (pair < term->height) {
      pair_rows(pixels(block, pair - 1), row_of(block, pair), term->width, term->slope + block * kBlock,
                pixels(block, pair));
    } else {
      pair_last_row(pixels(block, pair - 1), term->width, pixels(block, pair));
    }
  }
};

template <typename Arrangement>
struct PairPanels : Arrangement {
  using Stage = PairStage;
  using typename Arrangement::Place;
  static constexpr int kElements = 2 * Arrangement::kStep;  // from a pixel of a panel to the next

  static std::ptrdiff_t stage_floats(const TermOf<Bf16>& term) { return ring_floats(term); }
  static Stage begin(const TermOf<Bf16>& term, int row_begin, float* ring) {
    const int first = row_begin * term.stride - term.kernel / 2 + 1;
    const PairStage stage = {&term, depthwise_pair_row_of<kElements>(term.kernel, term.stride), ring,
                             first < 0 ? 0 : first};
    stage.begin();
    return stage;
  }

  static void output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    const TermOf<Bf16>& term = *stage.term;
    const int top = y * term.stride - term.kernel / 2, last = top + term.kernel - 1;
    const int end = last < term.height ? last : term.height;  // the last pair that has a row in the image
    const std::ptrdiff_t words = term.kernel * kBlock;
    for (int block = 0; block < term.blocks; ++block) {
      for (int r = stage.next; r <= end; ++r) stage.add_pair(block, r);
      const float* weights = term.depthwise + block * ((term.kernel + 1) / 2) * words;
      Taps taps = {};
      for (int j = 0; j <= term.kernel / 2; ++j) {
        const int pair = j < term.kernel / 2 ? top + 2 * j + 1 : last;
        // The lower row of the last pair has no weight, and was in the pair before.
        const int beyond = j < term.kernel / 2 ? term.height + 1 : term.height;
        if (pair < 0 || pair >= beyond) continue;
        taps.rows[taps.count] = stage.slot(block, pair);
        taps.weights[taps.count++] = weights + j * words;
      }
      stage.row(taps, out_width, halves(place.at(block) + offset));
    }
    if (end >= stage.next) stage.next = end + 1;
  }

  static void activate(const Bf16* in, int step, int pixels, const float* slope, float* out) {
    if (step == 1) {
      activate_row<kElements>(in, pixels, slope, halves(out));
      return;
    }
    const Vec s = load(slope);
    for (int p = 0; p < pixels; ++p) store(halves(out) + p * kElements, prelu(load(in + p * step * kBlock), s));
  }
};

}  // namespace
}  // namespace pnf::PNF_ISA
