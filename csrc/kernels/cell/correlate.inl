// The gradient of a depthwise convolution's weights: per channel and tap, the sum over the pixels of what the tap meets
// times the gradient of the result. Include after blocks.inl and planes.inl.
//
// A word of the plane and of the gradient may have values of two rows, whose products are added. `Word` multiplies words,
// and says how many rows it takes at a time at stride 1 and whether the gradients are spread over the pixels of the input.
namespace pnf::PNF_ISA {
namespace {

// Registers that the sums may take, and pixels that are added up in them before it goes on in float64.
constexpr int kAccumulators = kTilePixels * kTileBlocks * kVecs;
constexpr int kCorrelatedPixels = 224;

// sums[ky][kx] += sum_x rows[ky][x * S + kx] * gradient[x], for the taps from row Ky on.
template <typename Word, int K, int S, int Ky = 0>
PNF_INLINE void correlate_row(const float* const* rows, const float* gradient, int width, float* sums) {
  constexpr int kMost = kAccumulators / K;
  constexpr int kRows = kMost < 1 ? 1 : kMost < K - Ky ? kMost : K - Ky;
#pragma GCC unroll 1
  for (int v = 0; v < kVecs; ++v) {
    Vec acc[kRows][K];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) acc[r][kx] = load(sums + ((Ky + r) * K + kx) * kBlock + v * kLanes);
    }
#pragma GCC unroll 1
    for (int x = 0; x < width; ++x) {
      const Vec g = load(gradient + x * (Word::kSpread ? S : 1) * kBlock + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const float* in = rows[Ky + r] + x * S * kBlock + v * kLanes;
#pragma GCC unroll 8
        for (int kx = 0; kx < K; ++kx) acc[r][kx] = Word::multiply_add(load(in + kx * kBlock), g, acc[r][kx]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) store(sums + ((Ky + r) * K + kx) * kBlock + v * kLanes, acc[r][kx]);
    }
  }
  if constexpr (Ky + kRows < K) correlate_row<Word, K, S, Ky + kRows>(rows, gradient, width, sums);
}

template <typename Word, int K, int S>
void correlate_plane(const CellTerm& term, const float* plane, const float* gradient, std::ptrdiff_t gradient_row,
                     double* out) {
  constexpr int kStep = S == 1 ? Word::kRows : 1;
  alignas(64) float sums[K * K * kBlock];
  clear(sums, K * K * kBlock);
  int added = 0;
  for (int y = 0; y < term.out_height; y += kStep) {
    const float* rows[K];
    window_rows(term, plane, y * S, rows);
    correlate_row<Word, K, S>(rows, gradient + y * gradient_row, term.out_width, sums);
    added += kStep * term.out_width;
    if (added + kStep * term.out_width <= kCorrelatedPixels && y + kStep < term.out_height) continue;
    for (int i = 0; i < K * K * kBlock; i += kLanes) flush(load(sums + i), out + i);
    clear(sums, K * K * kBlock);
    added = 0;
  }
}

using CorrelatePlane = void (*)(const CellTerm&, const float*, const float*, std::ptrdiff_t, double*);

template <typename Word>
CorrelatePlane correlate_plane_of(int kernel, int stride) {
  switch (kernel * 2 + stride) {
    case 3 * 2 + 1:
      return correlate_plane<Word, 3, 1>;
    case 3 * 2 + 2:
      return correlate_plane<Word, 3, 2>;
    case 5 * 2 + 1:
      return correlate_plane<Word, 5, 1>;
    case 5 * 2 + 2:
      return correlate_plane<Word, 5, 2>;
    case 7 * 2 + 1:
      return correlate_plane<Word, 7, 1>;
    default:
      return correlate_plane<Word, 7, 2>;
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
