// A block of classes in the scratch of a thread, and what both forms of operands need of it. Include after exp.inl.

namespace pnf::PNF_ISA {
namespace {

#ifdef PNF_MARGIN_PAIRS
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif
constexpr int kTileVecs = kTileBlocks * kBlock / kLanes;
constexpr int kTile = kTileVecs * kLanes;
static_assert(kMarginPanel % kTile == 0 && kLanes <= kMarginLanes);

// What multiply_add multiplies at once.
constexpr int kPerWord = kPairs ? 2 : 1;
PNF_INLINE int words(int count) { return (count + kPerWord - 1) / kPerWord; }

PNF_INLINE float from_bf16(std::uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
}

PNF_INLINE std::uint16_t to_bf16(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  if (value != value) return 0x7fc0;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The rows as the first operand of a product over their dimensions, and of one over the samples: word (n, k) at
// by_dims + n * dims_stride + k, word (k, dim) at by_samples + k * samples_stride + dim.
struct Rows {
  const float* by_dims;
  std::ptrdiff_t dims_stride;
  const float* by_samples;
  std::ptrdiff_t samples_stride;
};

// Pointers into the scratch: scratch.h has the layouts.
struct Block {
  std::ptrdiff_t first;  // class
  int classes, panels;
  int panel_floats, panel_words;
  float *columns, *gradient, *inverse, *transposed, *logits, *by_classes, *lanes;
  float* operands;  // the columns in words
  float* cosines;
};

Block block_in(const MarginHead& head, float* scratch) {
  const MarginScratch at = margin_scratch_of(head.samples, head.dims, kPairs);
  Block block = {};
  block.panel_floats = margin_padded(head.dims) * kTile;
  block.panel_words = block.panel_floats / kPerWord;
  block.columns = scratch + at.columns;
  block.gradient = scratch + at.gradient;
  block.inverse = scratch + at.inverse;
  block.transposed = scratch + at.transposed;
  block.logits = scratch + at.logits;
  block.by_classes = scratch + at.by_classes;
  block.lanes = scratch + at.lanes;
  block.operands = kPairs ? scratch + at.words : block.columns;
  block.cosines = scratch + at.cosines;
  return block;
}

// How the cosines of a sample become g.
struct Weights {
  Vec factor, shift, weight;
};
PNF_INLINE Weights weights_of(const MarginHead& head, const MarginBackward& args, int sample) {
  return {splat(-head.scale), splat(args.row_shift[sample]), splat(args.row_scale[sample])};
}
PNF_INLINE Vec weighed(const Weights& weights, Vec cosine) {
  return mul(weights.weight, exponential_of_minus(fma(cosine, weights.factor, weights.shift)));
}

// log2(kLanes) rounds of interleaving the upper with the lower half of the rows.
PNF_INLINE void transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    Vec next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
