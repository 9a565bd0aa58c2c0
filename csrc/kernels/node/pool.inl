// 3x3 pooling of one row of one block of 16 channels; positions outside the image take no part. In a row of windows,
// columns are pooled first, since windows share them.
namespace pnf::PNF_ISA {
namespace {

template <bool Max>
PNF_INLINE Vec pool_two(Vec a, Vec b) {
  return Max ? max_nan(a, b) : add(a, b);
}

// A window of rows x columns, `row` elements from one row to the next.
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
PNF_INLINE Vec pool_column(const State* in, int rows, std::ptrdiff_t row) {
  const Vec first = load(in);
  if (rows == 1) return first;
  const Vec two = pool_two<Max>(first, load(in + row));
  return rows == 2 ? two : pool_two<Max>(two, load(in + 2 * row));
}

// One vector's channels of a row of windows, `in` at their first row of the input.
template <bool Max, int Stride, typename State>
PNF_INLINE void pool_windows(const State* in, int rows, int width, int out_width, Vec scale, bool accumulate,
                             float* out) {
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(width) * kBlock;
  const auto column = [&](int x) { return pool_column<Max>(in + x * kBlock, rows, row); };
  Vec left = splat(0.0f), middle = column(0);
  for (int x = 0; x < out_width; ++x) {
    const int centre = x * Stride;
    const bool has_right = centre + 1 < width;
    if (Stride == 2) middle = column(centre);
    const Vec right = has_right ? column(centre + 1) : middle;
    Vec pooled = middle;
    if (x > 0) pooled = pool_two<Max>(left, pooled);
    if (has_right) pooled = pool_two<Max>(pooled, right);
    if (!Max)
      pooled = mul(pooled, splat(1.0f / static_cast<float>(rows * (1 + (x > 0 ? 1 : 0) + (has_right ? 1 : 0)))));
    pooled = mul(pooled, scale);
    float* target = out + x * kBlock;
    store(target, accumulate ? add(pooled, load(target)) : pooled);
    left = Stride == 2 ? right : middle;
    middle = right;
  }
}

template <bool Max, typename State>
void pool_row(const TermOf<State>& term, int block, int y, int out_width, bool accumulate, float* out) {
  const int y0 = y * term.stride - 1 < 0 ? 0 : y * term.stride - 1;
  const int y1 = y * term.stride + 2 > term.height ? term.height : y * term.stride + 2;
  const State* in = term.input + block * term.block_stride + static_cast<std::ptrdiff_t>(y0) * term.width * kBlock;
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    const Vec scale = load(term.scale + block * kBlock + lane);
    const auto windows = term.stride == 1 ? pool_windows<Max, 1, State> : pool_windows<Max, 2, State>;
    windows(in + lane, y1 - y0, term.width, out_width, scale, accumulate, out + lane);
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
