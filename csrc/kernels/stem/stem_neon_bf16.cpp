#include "kernels/simd/neon_bf16.h"
#define PNF_ISA neon_bf16
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/dots.inl"
#include "kernels/stem/stem_pairs.inl"
// clang-format on

namespace pnf::neon_bf16 {

void stem_rows(const StemOf<Bf16>& stem, const Image& image, int row_begin, int row_end, float* scratch) {
  stem_rows_with<Dots>(stem, image, row_begin, row_end, scratch);
}

}  // namespace pnf::neon_bf16
