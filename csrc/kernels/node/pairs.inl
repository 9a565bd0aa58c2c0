// Depthwise windows of half precision by pairs of rows, where a word's two products take one instruction. Include after
// rows.inl and half_panels.inl.
//
// Panels hold Bf16, rings words of two rows.
namespace pnf::PNF_ISA {
namespace {

constexpr int kMaxPairs = (kMaxKernel + 1) / 2;

// Words of two activated rows, the first in their lower halves; `second` may be null, for zeros.
template <bool HasCap>
PNF_INLINE void pair_rows(const Bf16* first, const Bf16* second, int pixels, const TwoActivations<HasCap>& activation,
                          float* out) {
  int p = 0;
  if (second == nullptr) {
    for (; p < pixels; ++p) store(out + p * kBlock, pair(activation(load(first + p * kBlock)), splat(0.0f)));
    return;
  }
  for (; p + 2 <= pixels; p += 2) {
    store_pairs_of_two(out + p * kBlock, activation(load_two(first + p * kBlock)),
                       activation(load_two(second + p * kBlock)));
  }
  if (p < pixels) {
    store(out + p * kBlock, pair(activation(load(first + p * kBlock)), activation(load(second + p * kBlock))));
  }
}

// Rows of the ring and the weights that they meet.
struct Taps {
  const float* rows[kMaxPairs];
  const float* weights[kMaxPairs];
  int count;
};

template <int K, int S, int Step, int T>
PNF_INLINE void depthwise_pair_tile(const Taps& taps, int x, const Middle& middle, Bf16* out) {
  const Vec start = middle.start(0);
  Vec acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) acc[t] = start;
#pragma GCC unroll 1
  for (int j = 0; j < taps.count; ++j) {
    const float* in = taps.rows[j] + x * S * kBlock;
    Vec w[K];
#pragma GCC unroll 8
    for (int kx = 0; kx < K; ++kx) w[kx] = load(taps.weights[j] + kx * kBlock);
    add_taps<K, S>(in, w, acc, [](Vec a, Vec b, Vec c) { return dot(a, b, c); });
  }
  middle.finish(0, acc);
  store_pixels<T, Step>(acc, out + x * Step);
}

// The same for whole windows, with their weights in registers over a row; of as many pixels as tiles have, and how many
// these are.
template <int K, int S, int Step>
int whole_window_pair_row(const Taps& taps, int width, const Middle& middle, Bf16* out) {
  constexpr int kPairs = (K + 1) / 2;
  const Vec start = middle.start(0);
  Vec w[kPairs * K];
#pragma GCC unroll 16
  for (int i = 0; i < kPairs * K; ++i) w[i] = load(taps.weights[i / K] + i % K * kBlock);
  int x = 0;
  for (; x + kDepthwisePixels <= width; x += kDepthwisePixels) {
    Vec acc[kDepthwisePixels];
#pragma GCC unroll 16
    for (int t = 0; t < kDepthwisePixels; ++t) acc[t] = start;
#pragma GCC unroll 8
    for (int j = 0; j < kPairs; ++j) {
      const float* const in = taps.rows[j] + x * S * kBlock;
      add_taps<K, S>(in, w + j * K, acc, [](Vec a, Vec b, Vec c) { return dot(a, b, c); });
    }
    middle.finish(0, acc);
    store_pixels<kDepthwisePixels, Step>(acc, out + x * Step);
  }
  return x;
}

template <int K, int S, int Step>
void depthwise_pair_row(const Taps& taps, int width, const Middle& middle, Bf16* out) {
  int x = 0;
  if constexpr (K == 3 && kKeepsWindow) {
    if (taps.count == (K + 1) / 2) x = whole_window_pair_row<K, S, Step>(taps, width, middle, out);
  }
  for (; x + kDepthwisePixels <= width; x += kDepthwisePixels) {
    depthwise_pair_tile<K, S, Step, kDepthwisePixels>(taps, x, middle, out);
  }
  if constexpr (kDepthwisePixels > 7) {
    for (; x + 7 <= width; x += 7) depthwise_pair_tile<K, S, Step, 7>(taps, x, middle, out);
  }
  for (; x < width; ++x) depthwise_pair_tile<K, S, Step, 1>(taps, x, middle, out);
}

using DepthwisePairRow = void (*)(const Taps&, int, const Middle&, Bf16*);

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

// One depthwise term in progress: its ring, and the first pair of rows that is not in the ring yet. Pair q is of the rows
// 2 q and 2 q + 1, so that every row is activated once and a column of taps takes (k + 1) / 2 products, one tap of which
// has no weight: the last where a window begins with a pair, the first where it begins inside one.
struct PairStage {
  const TermOf<Bf16>* term;
  DepthwisePairRow row;
  float* ring;
  float* weights;  // [2: windows that begin inside a pair last][blocks][pairs][kernel][16]
  int next;

  int pairs() const { return term->kernel / 2 + 1; }
  float* slot(int block, int pair) const {
    return ring + static_cast<std::ptrdiff_t>(block * pairs() + pair % pairs()) * ring_width(*term) * kBlock;
  }
  const float* weights_of(int block, bool inside) const {
    return weights + static_cast<std::ptrdiff_t>((inside ? term->blocks : 0) + block) * pairs() * term->kernel * kBlock;
  }

  void begin() const {
    const int pad = term->kernel / 2;
    for (int block = 0; block < term->blocks; ++block) {
      for (int pair = 0; pair < pairs(); ++pair) {
        clear(slot(block, pair), pad * kBlock);
        clear(slot(block, pair) + (pad + term->width) * kBlock, pad * kBlock);
      }
    }
    const int row = term->kernel * kBlock, block_words = pairs() * row;
    const float* in = term->depthwise;
    float* whole = weights;
    float* inside = weights + term->blocks * block_words;
    for (int block = 0; block < term->blocks; ++block, in += block_words) {
      for (int i = 0; i < block_words; i += kBlock, whole += kBlock, inside += kBlock) {
        // The last word of a column has its tap in the upper half.
        const bool last = i + row >= block_words;
        store(whole, last ? upper_to_lower(load(in + i)) : load(in + i));
        const Vec before = i < row ? splat(0.0f) : upper_to_lower(load(in + i - row));
        store(inside, last ? with_upper(before, load(in + i)) : with_upper(before, low_half(load(in + i))));
      }
    }
  }

  void add_pair(int block, int pair) const {
    const Bf16* first = term->input + block * term->block_stride;
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term->width) * kBlock;
    first += 2 * pair * row;
    const Bf16* const second = 2 * pair + 1 < term->height ? first + row : nullptr;
    const Activation activation = activation_of(*term, block);
    float* const out = slot(block, pair) + term->kernel / 2 * kBlock;
    if (activation.cap == nullptr) {
      pair_rows(first, second, term->width, TwoActivations<false>(activation), out);
    } else {
      pair_rows(first, second, term->width, TwoActivations<true>(activation), out);
    }
  }
};

template <typename Arrangement>
struct PairPanels : HalfPanels<Arrangement> {
  using Stage = PairStage;
  using typename Arrangement::Place;
  using HalfPanels<Arrangement>::kElements;

  static std::ptrdiff_t stage_floats(const TermOf<Bf16>& term) {
    return ring_floats(term) + pair_weights_floats(term) +
           (term.kind == TermKind::kDepthwisePooled ? filtered_floats(term) : 0);
  }
  static Stage begin(const TermOf<Bf16>& term, int row_begin, float* ring) {
    const int top = row_begin * term.stride - term.kernel / 2;
    // What is pooled lies in rows of whole blocks first.
    const DepthwisePairRow row =
        term.kind == TermKind::kDepthwisePooled ? row_of<kBlock>(term) : row_of<kElements>(term);
    const PairStage stage = {&term, row, ring, ring + ring_floats(term), top < 0 ? 0 : top / 2};
    stage.begin();
    return stage;
  }

  static void output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    filter_row(stage, y, out_width, [&](int block) { return halves(place.at(block) + offset); });
  }

  static void pooled_output_row(Stage& stage, int y, int out_width, const Place& place, std::ptrdiff_t offset) {
    const TermOf<Bf16>& term = *stage.term;
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term.width) * kBlock;
    Bf16* const filtered = halves(stage.ring + ring_floats(term) + pair_weights_floats(term));
    for (int r = 0; r < 2; ++r) {
      filter_row(stage, 2 * y + r, term.width, [&](int block) { return filtered + (2 * block + r) * row; });
    }
    HalfPanels<Arrangement>::pool_filtered(filtered, term.blocks, row, out_width, place, offset);
  }

 private:
  template <int Step>
  static DepthwisePairRow row_of(const TermOf<Bf16>& term) {
    return depthwise_pair_row_of<Step>(term.kernel, filter_stride(term));
  }

  // Row y of the convolution, of each block to where `out` says.
  template <typename Out>
  static void filter_row(Stage& stage, int y, int width, Out out) {
    const TermOf<Bf16>& term = *stage.term;
    const int top = y * filter_stride(term) - term.kernel / 2, first = (top - (top & 1)) / 2;
    const MiddleKind kind = term.middle == nullptr ? MiddleKind::kNone : MiddleKind::kAny;
    const int beyond = (term.height + 1) / 2, end = first + stage.pairs() < beyond ? first + stage.pairs() : beyond;
    for (int block = 0; block < term.blocks; ++block) {
      for (int pair = stage.next; pair < end; ++pair) stage.add_pair(block, pair);
      const float* weights = stage.weights_of(block, (top & 1) != 0);
      Taps taps = {};
      for (int pair = first < 0 ? 0 : first; pair < end; ++pair) {
        PNF_ASSERT(taps.count < kMaxPairs);
        taps.rows[taps.count] = stage.slot(block, pair);
        taps.weights[taps.count++] = weights + (pair - first) * term.kernel * kBlock;
      }
      stage.row(taps, width, middle_of(term, kind, block), out(block));
    }
    if (end > stage.next) stage.next = end;
  }
};

}  // namespace
}  // namespace pnf::PNF_ISA
