// 3x3 pooling of one row of one block of 16 channels; positions outside the image take no part.
namespace pnf::PNF_ISA {
namespace {

template <bool Max>
PNF_INLINE Vec pool_two(Vec a, Vec b) {
  return Max ? max_nan(a, b) : add(a, b);
}

// A window of rows x columns, `row` floats from one row to the next.
template <bool Max, typename State>
PNF_INLINE Vec pool_window(const State* in, int rows, int columns, std::ptrdiff_t row) {
  Vec acc = load(in);
  for (int x = 1; x < columns; ++x) acc = pool_two<Max>(acc, load(in + x * kBlock));
  for (int y = 1; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) acc = pool_two<Max>(acc, load(in + y * row + x * kBlock));
  }
  return acc;
}

template <bool Max, typename State>
void pool_row(const TermOf<State>& term, int block, int y, int out_width, bool accumulate, float* out) {
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term.width) * kBlock;
  const int y0 = y * term.stride - 1 < 0 ? 0 : y * term.stride - 1;
  const int y1 = y * term.stride + 2 > term.height ? term.height : y * term.stride + 2;
  const State* plane = term.input + block * term.block_stride + y0 * row;
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    const Vec scale = load(term.scale + block * kBlock + lane);
    for (int x = 0; x < out_width; ++x) {
      const int x0 = x * term.stride - 1 < 0 ? 0 : x * term.stride - 1;
      const int x1 = x * term.stride + 2 > term.width ? term.width : x * term.stride + 2;
      const State* in = plane + x0 * kBlock + lane;
      const bool whole = y1 - y0 == 3 && x1 - x0 == 3;
      Vec pooled = whole ? pool_window<Max>(in, 3, 3, row) : pool_window<Max>(in, y1 - y0, x1 - x0, row);
      if (!Max) pooled = mul(pooled, splat(1.0f / static_cast<float>((y1 - y0) * (x1 - x0))));
      pooled = mul(pooled, scale);
      float* target = out + x * kBlock + lane;
      store(target, accumulate ? add(pooled, load(target)) : pooled);
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
