// Panels of Bf16, whatever brings them about: PReLU of two pixels at a time, and rows of results. Include after
// activation.inl and a vocabulary from kernels/simd that has `dot`.
namespace pnf::PNF_ISA {
namespace {

PNF_INLINE Bf16* halves(float* words) { return reinterpret_cast<Bf16*>(words); }

// Two pixels, `Step` elements from one to the other.
template <int Step>
PNF_INLINE void store_apart(Bf16* out, Two two) {
  if constexpr (Step == kBlock) {
    store_two(out, two);
  } else {
    store_each(out, out + Step, two);
  }
}

// What a block's states become, two pixels or one at a time.
template <bool HasCap>
struct TwoActivations {
  TwoSlopes slopes;
  Two caps;
  Vec slope, cap;

  explicit TwoActivations(const Activation& a) : slopes(two_slopes(a.slope)), slope(load(a.slope)) {
    if constexpr (HasCap) {
      cap = load(a.cap);
      caps = round_two(cap, cap);
    }
  }
  Two operator()(Two x) const {
    const Two active = prelu_two(x, slopes);
    return HasCap ? at_most_two(active, caps) : active;
  }
  Vec operator()(Vec x) const {
    const Vec active = prelu(x, slope);
    return HasCap ? at_most(active, cap) : active;
  }
};

// `Step` elements from a pixel of the output to the next.
template <int Step, bool HasCap>
PNF_INLINE void activate_row(const Bf16* in, int pixels, const TwoActivations<HasCap>& activation, Bf16* out) {
  int p = 0;
  for (; p + 2 <= pixels; p += 2) store_apart<Step>(out + p * Step, activation(load_two(in + p * kBlock)));
  if (p < pixels) store(out + p * Step, activation(load(in + p * kBlock)));
}

// Results of T pixels, `Step` elements from one to the next.
template <int T, int Step>
PNF_INLINE void store_pixels(const Vec (&values)[T], Bf16* out) {
#pragma GCC unroll 8
  for (int t = 0; t + 2 <= T; t += 2) store_apart<Step>(out + t * Step, round_two(values[t], values[t + 1]));
  if constexpr (T % 2 != 0) store(out + (T - 1) * Step, values[T - 1]);
}

template <typename Arrangement>
struct HalfPanels : Arrangement {
  static constexpr int kElements = 2 * Arrangement::kStep;  // from a pixel of a panel to the next

  static void activate(const Bf16* in, int step, int pixels, const Activation& activation, float* out) {
    if (activation.cap == nullptr) {
      activate_by(TwoActivations<false>(activation), in, step, pixels, out);
    } else {
      activate_by(TwoActivations<true>(activation), in, step, pixels, out);
    }
  }
  static void activate_pooled(const Bf16* in, std::ptrdiff_t row, int pixels, const Activation& activation,
                              float* out) {
    for_each_pooled(in, row, pixels, activation,
                    [out](int p, int v, Vec value) { store(halves(out) + p * kElements + v, value); });
  }
  // A row of the largest of two rows of a convolution's result, [blocks][2][row] from `filtered` on.
  static void pool_filtered(const Bf16* filtered, int blocks, std::ptrdiff_t row, int out_width,
                            const typename Arrangement::Place& place, std::ptrdiff_t offset) {
    for (int block = 0; block < blocks; ++block) {
      Bf16* const out = halves(place.at(block) + offset);
      for_each_pooled(filtered + 2 * block * row, row, out_width,
                      [out](int p, int v, Vec value) { store(out + p * kElements + v, value); });
    }
  }

 private:
  template <bool HasCap>
  static void activate_by(const TwoActivations<HasCap>& activation, const Bf16* in, int step, int pixels, float* out) {
    if (step == 1) {
      activate_row<kElements>(in, pixels, activation, halves(out));
      return;
    }
    for (int p = 0; p < pixels; ++p) store(halves(out) + p * kElements, activation(load(in + p * step * kBlock)));
  }
};

}  // namespace
}  // namespace pnf::PNF_ISA
