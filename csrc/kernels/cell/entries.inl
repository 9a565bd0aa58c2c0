// The kernels of a cell in training, by what multiplies in separable operations. Include after blocks.inl and moments.inl.
namespace pnf::PNF_ISA {
namespace {

template <typename Separable, typename State>
void products_by(const CellTerm& term, const State* const* input, int next, float* filtered, State* products,
                 float* scratch) {
  if (term.kind == CellKind::kSeparable) {
    Separable::products(term, input, next, filtered, products, scratch);
  } else {
    pool_products(term, input, products, scratch);
  }
}

template <typename Separable, typename State>
void gradient_by(const CellTerm& term, const CellGradientOf<State>& args, float* scratch) {
  if (term.kind == CellKind::kSeparable) {
    Separable::gradient(term, args, scratch);
  } else if (term.kind == CellKind::kNormalize) {
    normalize_gradient(term, args, scratch);
  } else {
    pool_gradient(term, args, scratch);
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA

#define PNF_CELL_ENTRIES(Separable, State)                                                                           \
  namespace pnf::PNF_ISA {                                                                                           \
  void cell_products(const CellTerm& term, const State* const* input, int next, float* filtered, State* products,    \
                     float* scratch) {                                                                               \
    products_by<Separable>(term, input, next, filtered, products, scratch);                                          \
  }                                                                                                                  \
  void channel_moments(const ImageViewOf<State>& products, int channels, int pixels, double* mean, double* square) { \
    moments_of_channels(products, channels, pixels, mean, square);                                                   \
  }                                                                                                                  \
  void normalize_sum(const NormalizedSumOf<State>& args) { write_sum(args); }                                        \
  void remaining_result(const NormalizedSumOf<State>& others, const State* sum) { write_remainder(others, sum); }    \
  void gradient_moments(const CellTerm& term, const OutputGradientOf<State>& gradient,                               \
                        const ImageViewOf<State>& products, const float* mean, double* sum, double* product_sum) {   \
    moments_of_gradient(term, gradient, products, mean, sum, product_sum);                                           \
  }                                                                                                                  \
  void cell_gradient(const CellTerm& term, const CellGradientOf<State>& args, float* scratch) {                      \
    gradient_by<Separable>(term, args, scratch);                                                                     \
  }                                                                                                                  \
  }
