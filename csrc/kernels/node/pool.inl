// 3x3 pooling of one row of one block of 16 channels; positions outside the image take no part.
namespace pnf::PNF_ISA {
namespace {

template <bool Max>
void pool_row(const Term& term, int block, int y, int out_width, bool accumulate, float* out) {
  const float* plane = term.input + block * term.block_stride;
  const int y0 = y * term.stride - 1 < 0 ? 0 : y * term.stride - 1;
  const int y1 = y * term.stride + 2 > term.height ? term.height : y * term.stride + 2;
  for (int x = 0; x < out_width; ++x) {
    const int x0 = x * term.stride - 1 < 0 ? 0 : x * term.stride - 1;
    const int x1 = x * term.stride + 2 > term.width ? term.width : x * term.stride + 2;
    const float count = static_cast<float>((y1 - y0) * (x1 - x0));
    for (int lane = 0; lane < kBlock; lane += kLanes) {
      Vec acc = Max ? load(plane + (y0 * term.width + x0) * kBlock + lane) : splat(0.0f);
      for (int iy = y0; iy < y1; ++iy) {
        for (int ix = x0; ix < x1; ++ix) {
          const Vec value = load(plane + (iy * term.width + ix) * kBlock + lane);
          acc = Max ? max_nan(acc, value) : add(acc, value);
        }
      }
      if (!Max) acc = mul(acc, splat(1.0f / count));
      acc = mul(acc, load(term.scale + block * kBlock + lane));
      float* target = out + x * kBlock + lane;
      store(target, accumulate ? add(acc, load(target)) : acc);
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
