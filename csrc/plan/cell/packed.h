// The operations of a cell as the kernels read them: weights in their layout, and the vectors of their normalisation.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/cell.h"
#include "plan/cell/memory.h"

namespace pnf::cell_training {

inline int blocks_of(int channels) { return (channels + kBlock - 1) / kBlock; }

inline std::ptrdiff_t elements_of(const CellState& state) {
  return static_cast<std::ptrdiff_t>(state.channels) * state.height * state.width;
}

inline std::vector<int> residuals_of(const Cell& cell, int sum) {
  std::vector<int> states;
  for (const CellResidual& residual : cell.residuals) {
    if (residual.sum == sum) states.push_back(residual.state);
  }
  return states;
}

// As half precision, in the lower half of a word: to the nearest, ties to even.
inline std::uint32_t rounded(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return (std::isnan(x) ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// Puts a weight into one half of a word, which is zero or holds the other half.
inline void set_half(float& word, bool upper, float weight) {
  word = std::bit_cast<float>(std::bit_cast<std::uint32_t>(word) | rounded(weight) << (upper ? 16 : 0));
}

// An operation with its weights in the kernels' layout.
template <typename State>
class Packed {
 public:
  Packed(const Cell& cell, const CellOperation& operation, const CellKernels<State>& set, Floats& memory)
      : set_(set), operation_(operation), state_(cell.states[operation.first_state]) {
    term_.kind = operation.kind;
    term_.height = state_.height;
    term_.width = state_.width;
    term_.out_height = (state_.height + operation.stride - 1) / operation.stride;
    term_.out_width = (state_.width + operation.stride - 1) / operation.stride;
    term_.kernel = operation.kernel;
    term_.stride = operation.stride;
    term_.offset = operation.offset;
    term_.parts = operation.parts;
    term_.part_channels = state_.channels;
    term_.part_blocks = blocks_of(state_.channels);
    term_.blocks = operation.parts * term_.part_blocks;
    term_.out_channels = operation.out_channels;
    term_.out_blocks = blocks_of(operation.out_channels);
    if (operation.kind == CellKind::kSeparable) pack_weights(memory);
  }

  const CellTerm& term() const { return term_; }
  const CellOperation& operation() const { return operation_; }
  int channels_in() const { return operation_.parts * state_.channels; }
  int taps() const { return operation_.kernel * operation_.kernel; }
  // Per pixel of the output.
  std::ptrdiff_t multiplications() const {
    return static_cast<std::ptrdiff_t>(channels_in()) * (operation_.out_channels + taps());
  }
  std::ptrdiff_t pixels() const { return static_cast<std::ptrdiff_t>(term_.out_height) * term_.out_width; }
  std::size_t lanes_out() const { return std::size_t{kBlock} * term_.out_blocks; }
  // Among those of a cell's `mean` and `variance`.
  std::ptrdiff_t moments() const { return operation_.normalized ? operation_.out_channels : 0; }
  std::size_t products() const { return term_.kind == CellKind::kNormalize ? 0 : lanes_out() * pixels(); }
  std::size_t filtered() const { return filters_plane(term_) ? std::size_t{kBlock} * term_.blocks * pixels() : 0; }

  // Where input channel c lies among the lanes of the blocks.
  int lane_of(int c) const { return c / state_.channels * term_.part_blocks * kBlock + c % state_.channels; }
  float weight_at(int o, int c) const {
    return operation_.pointwise[static_cast<std::ptrdiff_t>(o) * channels_in() + c];
  }

  // The parts of one image among those of all states.
  template <typename T>
  void parts_of(const std::vector<T*>& states, std::ptrdiff_t image, std::vector<T*>& parts) const {
    const std::ptrdiff_t elements = static_cast<std::ptrdiff_t>(state_.height) * state_.width * state_.channels;
    for (int p = 0; p < operation_.parts; ++p) {
      T* const state = states[operation_.first_state + p];
      parts[p] = state == nullptr ? nullptr : state + image * elements;
    }
  }

  // The products of one image, whose parts are mine.inputs.
  void multiply(ThreadMemory<State>& mine, int next, State* products) const {
    if (term_.kind == CellKind::kNormalize) return;
    set_.cell_products(term_, mine.inputs.data(), next, mine.filtered.reserve(0), products, mine.scratch.reserve(0));
  }
  // Where they are then: kNormalize takes its input as it is.
  ImageViewOf<State> products_of(const State* input, const State* products) const {
    if (term_.kind == CellKind::kNormalize) return {input, state_.channels, kBlock, false};
    return {products, kBlock, static_cast<std::ptrdiff_t>(kBlock) * pixels(), true};
  }

 private:
  // Words of the taps of a channel's block, and of a block of a product's weights.
  std::size_t tap_words() const {
    if (operation_.kernel == 1) return 0;
    return static_cast<std::size_t>(set_.pairs ? (operation_.kernel + 1) / 2 * operation_.kernel : taps()) * kBlock;
  }
  std::size_t product_words() const { return kBlock * kBlock / (set_.pairs ? 2 : 1); }

  void pack_weights(Floats& memory) {
    const std::size_t in = std::size_t{kBlock} * term_.blocks, filters = tap_words() * term_.blocks;
    const std::size_t products = product_words() * term_.blocks * term_.out_blocks;
    const std::size_t count = in + 2 * filters + 2 * products;
    float* slope = memory.reserve(count);
    float* depthwise = slope + in;
    float* reversed = depthwise + filters;
    float* pointwise = reversed + filters;
    float* transposed = pointwise + products;
    std::fill(slope, slope + count, 0.0f);
    for (int c = 0; c < channels_in(); ++c) {
      const int lane = lane_of(c), block = lane / kBlock, within = lane % kBlock;
      slope[lane] = operation_.slope[c];
      const float* filter = operation_.depthwise + static_cast<std::ptrdiff_t>(c) * taps();
      for (int tap = 0; tap < taps() && operation_.kernel > 1; ++tap) {
        set_tap(depthwise + block * tap_words() + within, tap, filter[tap]);
        set_tap(reversed + block * tap_words() + within, taps() - 1 - tap, filter[tap]);
      }
      for (int o = 0; o < operation_.out_channels; ++o) {
        const float weight = weight_at(o, c) * (operation_.kernel == 1 ? filter[0] : 1.0f);
        const std::ptrdiff_t forth = static_cast<std::ptrdiff_t>(o / kBlock) * term_.blocks + block;
        const std::ptrdiff_t back = static_cast<std::ptrdiff_t>(block) * term_.out_blocks + o / kBlock;
        set_product(pointwise + forth * product_words(), within, o % kBlock, weight);
        set_product(transposed + back * product_words(), o % kBlock, within, weight);
      }
    }
    term_.slope = slope;
    term_.depthwise = depthwise;
    term_.reversed = reversed;
    term_.pointwise = pointwise;
    term_.transposed = transposed;
  }

  void set_tap(float* weights, int tap, float weight) const {
    const int kernel = operation_.kernel, ky = tap / kernel, kx = tap % kernel;
    if (set_.pairs) {
      set_half(weights[(ky / 2 * kernel + kx) * kBlock], ky % 2 != 0 || ky + 1 == kernel, weight);
    } else {
      weights[tap * kBlock] = weight;
    }
  }

  void set_product(float* weights, int from, int to, float weight) const {
    if (set_.pairs) {
      set_half(weights[from / 2 * kBlock + to], from % 2 != 0, weight);
    } else {
      weights[from * kBlock + to] = weight;
    }
  }

  const CellKernels<State>& set_;
  const CellOperation& operation_;
  const CellState& state_;
  CellTerm term_ = {};
};

// Vectors of [out_blocks][16] that belong to an operation, surplus channels zero.
struct Normalization {
  float *scale, *shift;                                 // of the operation's result
  float *centre, *by_gradient, *by_product, *constant;  // of its products' gradient

  template <typename State>
  Normalization(const Packed<State>& packed, Floats& memory) {
    const std::size_t lanes = packed.lanes_out();
    scale = memory.reserve(6 * lanes);
    shift = scale + lanes;
    centre = shift + lanes;
    by_gradient = centre + lanes;
    by_product = by_gradient + lanes;
    constant = by_product + lanes;
  }

  template <typename State>
  void set_result(const Packed<State>& packed, const double* mean, const double* variance) const {
    std::fill(scale, centre, 0.0f);
    if (!packed.operation().normalized) {
      std::copy(packed.operation().gamma, packed.operation().gamma + packed.term().out_channels, scale);
      return;
    }
    for (int c = 0; c < packed.term().out_channels; ++c) {
      const double factor = packed.operation().gamma[c] / std::sqrt(variance[c] + packed.operation().epsilon);
      scale[c] = static_cast<float>(factor);
      shift[c] = static_cast<float>(packed.operation().beta[c] - factor * mean[c]);
    }
  }
};

// An operation's share of its sum for one image, once its products and Normalization are there.
template <typename State>
NormalizedTermOf<State> term_of(const Packed<State>& packed, const std::vector<const State*>& states, int image,
                                ThreadMemory<State>& mine, OperationMemory& memory, const State* products) {
  const Normalization vectors(packed, memory.normalization);
  packed.parts_of(states, image, mine.inputs);
  return {packed.products_of(mine.inputs[0], products), vectors.scale, vectors.shift, packed.operation().first_out,
          packed.term().out_channels};
}

// The operations of sum `sum` start at `first` and end before the result.
inline std::size_t operations_end(const Cell& cell, int sum, std::size_t first) {
  while (first < cell.operations.size() && cell.operations[first].sum == sum) ++first;
  return first;
}

template <typename State>
std::vector<Packed<State>> pack(const Cell& cell, std::size_t first, std::size_t end, const CellKernels<State>& set,
                                TrainingMemory<State>& memory) {
  if (memory.operations.size() < end - first) memory.operations.resize(end - first);
  std::vector<Packed<State>> packed;
  packed.reserve(end - first);
  for (std::size_t i = first; i < end; ++i) {
    packed.emplace_back(cell, cell.operations[i], set, memory.operations[i - first].packed);
  }
  return packed;
}

}  // namespace pnf::cell_training
