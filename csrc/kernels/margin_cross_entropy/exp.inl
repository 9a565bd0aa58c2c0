// exp(-y) for y >= -88; arguments above 87 give exp(-87), a NaN stays NaN. Include after a vocabulary from kernels/simd.
//
// -y = n ln 2 - f with |f| <= ln 2 / 2, n = 0 or the result of adding and subtracting 1.5 * 2^23; ln 2 is taken in two
// parts, so that n times the first is exact. The polynomial of degree 6 interpolates exp at Chebyshev points and is
// within 2.1e-8 of it; with the rounding of its last steps the result is within 2^-22 of its value.
#ifndef PNF_ISA
#error "PNF_ISA must name the namespace of the vocabulary"
#endif

namespace pnf::PNF_ISA {
namespace {

PNF_INLINE Vec exponential_of_minus(Vec y) {
  const Vec magic = splat(0x1.8p23f);
  y = at_most(y, splat(87.0f));
  const Vec n = add(fma(y, splat(-0x1.715476p0f), magic), splat(-0x1.8p23f));
  Vec f = fma(n, splat(0x1.62e4p-1f), y);
  f = fma(n, splat(0x1.7f7d1cp-20f), f);
  Vec p = splat(0x1.6d75e6p-10f);
  p = fma(p, f, splat(-0x1.12705ap-7f));
  p = fma(p, f, splat(0x1.5554acp-5f));
  p = fma(p, f, splat(-0x1.555402p-3f));
  p = fma(p, f, splat(0.5f));
  p = fma(p, f, splat(-1.0f));
  p = fma(p, f, splat(1.0f));
  return times_power_of_two(p, n);
}

}  // namespace
}  // namespace pnf::PNF_ISA
