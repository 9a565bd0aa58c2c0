// The operands of the margin kernels' products as floats. Include after block.inl.

namespace pnf::PNF_ISA {
namespace {

PNF_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }

Rows rows_in(const MarginHead& head, float*) {
  return {head.unit_rows, head.row_stride, head.unit_rows, head.row_stride};
}

void pack_columns(const Block&, int) {}

// log2(kLanes) rounds of interleaving the upper with the lower half of the rows.
void transpose_block(const Block& block, int padded) {
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(block.panels) * kTile * kTile;
  for (int panel = 0; panel < block.panels; ++panel) {
    const float* columns = block.columns + panel * block.panel_floats;
    for (int dim = 0; dim < padded; dim += kLanes) {
      float* out =
          block.transposed + dim / kTile * stride + static_cast<std::ptrdiff_t>(panel) * kTile * kTile + dim % kTile;
      for (int lane = 0; lane < kTile; lane += kLanes) {
        Vec rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) rows[i] = load(columns + (dim + i) * kTile + lane);
        transpose(rows);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(out + (lane + i) * kTile, rows[i]);
      }
    }
  }
}

// Where a panel's cosines go before they are weighed: g takes their place.
float* cosines_of(const Block& block, int panel, int samples) {
  return block.logits + static_cast<std::ptrdiff_t>(panel) * samples * kTile;
}

// Turns the cosines of a panel into g.
void weigh(const MarginHead& head, const MarginBackward& args, const Block& block, int panel, int chunk, int samples) {
  float* g = cosines_of(block, panel, samples);
  for (int row = 0; row < samples; ++row) {
    const Weights weights = weights_of(head, args, chunk + row);
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) store(g + v * kLanes, weighed(weights, load(g + v * kLanes)));
    g += kTile;
  }
}

void clear(const Block& block, int panel, int row, int lane, int samples) {
  cosines_of(block, panel, samples)[static_cast<std::ptrdiff_t>(row) * kTile + lane] = 0.0f;
}

const float* by_classes(const Block& block) { return block.logits; }

}  // namespace
}  // namespace pnf::PNF_ISA
