// The operands of the margin kernels' products as pairs of bfloat16, whose products are summed in fp32. Include after
// block.inl, with a vocabulary that has `dot`.
//
// Rounded are the normalised rows and columns, once, and g, once. Everything else stays as it is in floats.inl: the
// columns that gradients are made perpendicular to, the sums, and the label's terms.

namespace pnf::PNF_ISA {
namespace {

static_assert(kTileVecs == 2, "two vectors of floats are one of halves");

PNF_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return dot(a, b, sum); }

Rows rows_in(const MarginHead& head, float* scratch) {
  const MarginScratch at = margin_scratch_of(head.samples, head.dims, true);
  const std::ptrdiff_t padded = margin_padded(head.dims), words = margin_row_words(head.dims);
  const int pairs = (head.samples + 1) / 2;
  auto* const by_dims = reinterpret_cast<std::uint16_t*>(scratch + at.row_dims);
  auto* const by_samples = reinterpret_cast<std::uint16_t*>(scratch + at.row_samples);
  for (int n = 0; n < 2 * pairs; ++n) {
    for (int dim = 0; dim < padded; ++dim) {
      const bool within = n < head.samples && dim < head.dims;
      const std::uint16_t bits = within ? to_bf16(head.unit_rows[n * head.row_stride + dim]) : std::uint16_t{0};
      by_samples[(n / 2 * padded + dim) * 2 + n % 2] = bits;
      if (n < head.samples) by_dims[n * words * 2 + dim] = bits;
    }
  }
  return {scratch + at.row_dims, words, scratch + at.row_samples, padded};
}

void pack_columns(const Block& block, int padded) {
  for (int panel = 0; panel < block.panels; ++panel) {
    const float* columns = block.columns + panel * block.panel_floats;
    float* out = block.operands + panel * block.panel_words;
    for (int i = 0; i < padded * kTile; i += 2 * kTile) {
#pragma GCC unroll 16
      for (int v = 0; v < kTile; v += kLanes)
        store(out + v, pair(load(columns + i + v), load(columns + i + kTile + v)));
      out += kTile;
    }
  }
}

void transpose_block(const Block& block, int padded) {
  const std::ptrdiff_t panel_words = kTile / 2 * kTile, stride = block.panels * panel_words;
  for (int panel = 0; panel < block.panels; ++panel) {
    const float* columns = block.columns + panel * block.panel_floats;
    for (int dim = 0; dim < padded; dim += kLanes) {
      float* out = block.transposed + dim / kTile * stride + panel * panel_words + dim % kTile;
      for (int lane = 0; lane < kTile; lane += kLanes) {
        Vec rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) rows[i] = load(columns + (dim + i) * kTile + lane);
        transpose(rows);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i += 2) store(out + (lane + i) / 2 * kTile, pair(rows[i], rows[i + 1]));
      }
    }
  }
}

float* cosines_of(const Block& block, int, int) { return block.cosines; }

// Two samples of g at a time: words of both samples for each class, and for each sample words of neighbouring classes.
void weigh(const MarginHead& head, const MarginBackward& args, const Block& block, int panel, int chunk, int samples) {
  const std::ptrdiff_t pairs = (samples + 1) / 2;
  const float* cosines = block.cosines;
  float* by_samples = block.logits + panel * pairs * kTile;
  auto* by_classes =
      reinterpret_cast<Bf16*>(block.by_classes + static_cast<std::ptrdiff_t>(panel) * samples * kTile / 2);
  for (int row = 0; row < samples; row += 2) {
    const bool both = row + 1 < samples;
    const Weights first = weights_of(head, args, chunk + row);
    const Weights second = both ? weights_of(head, args, chunk + row + 1) : first;
    const float* next = cosines + (both ? kTile : 0);
    const Vec low[2] = {weighed(first, load(cosines)), weighed(first, load(cosines + kLanes))};
    Vec high[2] = {weighed(second, load(next)), weighed(second, load(next + kLanes))};
    store_two(by_classes, round_two(low[0], low[1]));
    if (both) {
      store_two(by_classes + kTile, round_two(high[0], high[1]));
    } else {
      high[0] = high[1] = splat(0.0f);
    }
    store(by_samples, pair(low[0], high[0]));
    store(by_samples + kLanes, pair(low[1], high[1]));
    cosines += 2 * kTile;
    by_samples += kTile;
    by_classes += 2 * kTile;
  }
}

void clear(const Block& block, int panel, int row, int lane, int samples) {
  const std::ptrdiff_t pairs = (samples + 1) / 2;
  auto* const by_samples = reinterpret_cast<std::uint16_t*>(block.logits + panel * pairs * kTile);
  auto* const by_classes = reinterpret_cast<std::uint16_t*>(block.by_classes);
  by_samples[(row / 2 * kTile + lane) * 2 + row % 2] = 0;
  by_classes[(static_cast<std::ptrdiff_t>(panel) * samples + row) * kTile + lane] = 0;
}

const float* by_classes(const Block& block) { return block.by_classes; }

}  // namespace
}  // namespace pnf::PNF_ISA
