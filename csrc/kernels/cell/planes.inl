// Planes of one block of an image, padded by zeros on all sides. Include after blocks.inl.
namespace pnf::PNF_ISA {
namespace {

PNF_INLINE std::ptrdiff_t padded_row(const CellTerm& term) {
  return static_cast<std::ptrdiff_t>(term.width + 2 * (term.kernel / 2)) * kBlock;
}

PNF_INLINE float* inside(const CellTerm& term, float* plane, int y) {
  const int pad = term.kernel / 2;
  return plane + (y + pad) * padded_row(term) + pad * kBlock;
}

// Zeroes what surrounds the image in a padded plane.
void clear_border(const CellTerm& term, float* plane) {
  const int pad = term.kernel / 2;
  const std::ptrdiff_t row = padded_row(term);
  clear(plane, pad * row);
  for (int y = 0; y < term.height; ++y) {
    clear(plane + (y + pad) * row, pad * kBlock);
    clear(plane + (y + pad + 1) * row - pad * kBlock, pad * kBlock);
  }
  clear(plane + (term.height + pad) * row, pad * row);
}

// Rows y * stride .. y * stride + kernel of a padded plane.
PNF_INLINE void window_rows(const CellTerm& term, const float* plane, int top, const float** rows) {
  PNF_ASSERT(term.kernel <= kMaxKernel);
  for (int ky = 0; ky < term.kernel; ++ky) rows[ky] = plane + (top + ky) * padded_row(term);
}

}  // namespace
}  // namespace pnf::PNF_ISA
