#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/cell.h"
#include "plan/cell/images.h"
#include "plan/cell/memory.h"
#include "plan/cell/packed.h"

namespace pnf {
namespace cell_training {
namespace {

// Whether the first operation's products lie as the sum will, so that they need no memory but the sum's: one block,
// every operation has all of it, and the first is not read where it lies anyway.
template <typename State>
bool fits_in_place(const std::vector<Packed<State>>& packed, const CellState& state) {
  bool fits = state.channels == kBlock && !packed.empty() && packed[0].term().kind != CellKind::kNormalize;
  for (const Packed<State>& p : packed) fits = fits && p.term().out_channels == kBlock;
  return fits;
}

// Means and squared distances of images of equal size, into those of the batch (Chan, Golub and LeVeque, 1979).
void combine_moments(const double* moments, int images, std::size_t lanes, double pixels, int channels, double* mean,
                     double* variance) {
  for (int c = 0; c < channels; ++c) {
    double middle = 0.0;
    for (int image = 0; image < images; ++image) middle += moments[2 * image * lanes + c];
    middle /= images;
    double square = 0.0;
    for (int image = 0; image < images; ++image) {
      const double distance = moments[2 * image * lanes + c] - middle;
      square += moments[(2 * image + 1) * lanes + c] + pixels * distance * distance;
    }
    mean[c] = middle;
    variance[c] = square / (images * pixels);
  }
}

// One past the operations that are taken through the batch together with the first: those of a discrete node, or of one
// edge of a searched one. Together they read their state once per image, and their products are all the memory it takes.
template <typename State>
std::size_t group_end(const std::vector<Packed<State>>& packed, std::size_t first) {
  constexpr std::size_t kLeast = 4;
  std::size_t end = first + 1;
  while (end < packed.size() &&
         (end - first < kLeast || packed[end].operation().first_state == packed[end - 1].operation().first_state)) {
    ++end;
  }
  return end;
}

// A sum in the forward pass.
template <typename State>
class SumForward {
 public:
  SumForward(const Cell& cell, int sum, const CellKernels<State>& set, const std::vector<Packed<State>>& packed,
             int threads, const std::vector<const State*>& states, State* out, TrainingMemory<State>& memory)
      : cell_(cell),
        set_(set),
        packed_(packed),
        residuals_(residuals_of(cell, sum)),
        threads_(threads),
        states_(states),
        state_(cell.states[cell.inputs + sum]),
        out_(out),
        memory_(memory) {}

  void run(double* mean, double* variance) {
    prepare_threads(packed_, residuals_.size(), cell_.images, threads_, memory_);
    if (packed_.empty()) normalize(0, 0);
    for (std::size_t first = 0, end = 0; first < packed_.size(); first = end) {
      end = group_end(packed_, first);
      outside_ = first == 0 && fits_in_place(packed_, state_) ? 1 : 0;
      multiply(first, end);
      for (std::size_t i = first; i < end; ++i) {
        const Packed<State>& p = packed_[i];
        OperationMemory& mine = memory_of(i, first);
        if (p.operation().normalized) {
          combine_moments(mine.moments.data(), cell_.images, p.lanes_out(), static_cast<double>(p.pixels()),
                          p.term().out_channels, mean, variance);
        }
        Normalization(p, mine.normalization).set_result(p, mean, variance);
        mean += p.moments();
        variance += p.moments();
      }
      normalize(first, end);
    }
  }

 private:
  // Groups after the first take the memory of the first again.
  OperationMemory& memory_of(std::size_t i, std::size_t first) { return memory_.operations[i - first]; }

  State* products_at(std::size_t i, std::size_t first, int image) {
    if (i < outside_) return out_ + image * elements_of(state_);
    return reserve<State>(memory_of(i, first).products, 0) + image * packed_[i].products();
  }

  void multiply(std::size_t first, std::size_t end) {
    for (std::size_t i = first; i < end; ++i) {
      if (i >= outside_) reserve<State>(memory_of(i, first).products, packed_[i].products() * cell_.images);
      memory_of(i, first).moments.zeros(2 * packed_[i].lanes_out() * cell_.images);
    }
    auto body = [&](const Visit& visit) {
      ThreadMemory<State>& mine = memory_.threads[visit.thread];
      for (std::size_t i = first; i < end; ++i) {
        const Packed<State>& p = packed_[i];
        State* products = products_at(i, first, visit.image);
        double* moments = memory_of(i, first).moments.data() + 2 * visit.image * p.lanes_out();
        p.parts_of(states_, visit.image, mine.inputs);
        p.multiply(mine, visit.next, products);
        if (!p.operation().normalized) continue;
        set_.channel_moments(p.products_of(mine.inputs[0], products), p.term().out_channels,
                             static_cast<int>(p.pixels()), moments, moments + p.lanes_out());
      }
    };
    each_image(cell_.images, threads_, Order::kForwards, body);
  }

  // The first group brings the residuals.
  void normalize(std::size_t first, std::size_t end) {
    const std::ptrdiff_t elements = elements_of(state_);
    const std::size_t residuals = first == 0 ? residuals_.size() : 0;
    auto body = [&](const Visit& visit) {
      ThreadMemory<State>& mine = memory_.threads[visit.thread];
      const int image = visit.image;
      for (std::size_t i = first; i < end; ++i) {
        mine.terms[i - first] =
            term_of(packed_[i], states_, image, mine, memory_of(i, first), products_at(i, first, image));
      }
      for (std::size_t r = 0; r < residuals; ++r) mine.residuals[r] = states_[residuals_[r]] + image * elements;
      set_.normalize_sum({.pixels = state_.height * state_.width,
                          .channels = state_.channels,
                          .terms = mine.terms.data(),
                          .term_count = static_cast<int>(end - first),
                          .residuals = mine.residuals.data(),
                          .residual_count = static_cast<int>(residuals),
                          .accumulate = first > 0,
                          .out = out_ + image * elements});
    };
    each_image(cell_.images, threads_, Order::kBackwards, body);
  }

  const Cell& cell_;
  const CellKernels<State>& set_;
  const std::vector<Packed<State>>& packed_;
  std::vector<int> residuals_;
  int threads_;
  const std::vector<const State*>& states_;
  const CellState& state_;
  State* out_;
  TrainingMemory<State>& memory_;
  std::size_t outside_ = 0;  // the first operation with products elsewhere than in `out`
};

}  // namespace
}  // namespace cell_training

template <typename State>
void cell_forward(const Cell& cell, int threads, const std::vector<State*>& states, double* mean, double* variance) {
  using namespace cell_training;
  // Before any task starts: it throws where the forced instruction set is unavailable, and tasks must not.
  const CellKernels<State>& set = cell_kernels<State>();
  const CallMemory<State> memory;
  const std::vector<const State*> readable(states.begin(), states.end());
  const int used = std::min(threads, cell.images);
  std::size_t first = 0;
  for (int sum = 0; sum < static_cast<int>(cell.states.size()) - cell.inputs; ++sum) {
    const std::size_t end = operations_end(cell, sum, first);
    const std::vector<Packed<State>> packed = pack(cell, first, end, set, *memory);
    SumForward<State>(cell, sum, set, packed, used, readable, states[cell.inputs + sum], *memory).run(mean, variance);
    for (const Packed<State>& p : packed) {
      mean += p.moments();
      variance += p.moments();
    }
    first = end;
  }
}

#define PNF_INSTANTIATE(State) \
  template void cell_forward<State>(const Cell&, int, const std::vector<State*>&, double*, double*);
PNF_INSTANTIATE(float)
PNF_INSTANTIATE(Bf16)
#undef PNF_INSTANTIATE

}  // namespace pnf
