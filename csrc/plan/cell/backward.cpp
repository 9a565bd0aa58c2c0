#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/cell.h"
#include "plan/cell/gradient_source.h"
#include "plan/cell/images.h"
#include "plan/cell/memory.h"
#include "plan/cell/packed.h"
#include "plan/cell/state_gradients.h"

namespace pnf {
namespace cell_training {
namespace {

// The gradients of a separable operation's weights, from the sums of all images.
template <typename State>
void write_gradients(const Packed<State>& packed, const double* grad_pointwise, const double* grad_depthwise,
                     const double* grad_slope, const OperationGradient& out) {
  const CellTerm& term = packed.term();
  const int taps = packed.taps();
  for (int c = 0; c < packed.channels_in(); ++c) {
    const int lane = packed.lane_of(c), block = lane / kBlock, within = lane % kBlock;
    out.slope[c] = static_cast<float>(grad_slope[lane]);
    const float* filter = packed.operation().depthwise + static_cast<std::ptrdiff_t>(c) * taps;
    double by_filter = 0.0;
    for (int o = 0; o < term.out_channels; ++o) {
      const double sum =
          grad_pointwise[((static_cast<std::ptrdiff_t>(o) / kBlock * term.blocks + block) * kBlock + o % kBlock) *
                             kBlock +
                         within];
      by_filter += sum * packed.weight_at(o, c);
      out.pointwise[static_cast<std::ptrdiff_t>(o) * packed.channels_in() + c] =
          static_cast<float>(term.kernel == 1 ? sum * filter[0] : sum);
    }
    float* by_taps = out.depthwise + static_cast<std::ptrdiff_t>(c) * taps;
    if (term.kernel == 1) {
      by_taps[0] = static_cast<float>(by_filter);
      continue;
    }
    for (int tap = 0; tap < taps; ++tap) {
      by_taps[tap] = static_cast<float>(grad_depthwise[(block * taps + tap) * kBlock + within]);
    }
  }
}

// A sum in the backward pass.
template <typename State>
struct SumContext {
  const Cell& cell;
  int sum;
  const CellKernels<State>& set;
  int threads;
  const std::vector<Packed<State>>& packed;
  const std::vector<int>& residuals;
  const std::vector<const State*>& states;
  const std::vector<State*>& grad_states;
  const State* grad;
  TrainingMemory<State>& memory;

  const CellState& state() const { return cell.states[cell.inputs + sum]; }
  const State* values(int image) const { return states[cell.inputs + sum] + image * elements_of(state()); }
};

// What the forward pass found of an operation, and where its gradients go.
struct OperationResults {
  const double *mean, *variance;
  const OperationGradient* gradient;
};

// One of its operations. `before` are those of kernels/cell, of the whole batch; `slot` is that of its products.
template <typename State>
class OperationBackward {
 public:
  OperationBackward(const SumContext<State>& context, std::size_t index, std::size_t slot, GradientSource source,
                    std::vector<const State*> before, const OperationResults& results)
      : at_(context),
        packed_(context.packed[index]),
        index_(index),
        source_(source),
        before_(std::move(before)),
        mean_(results.mean),
        variance_(results.variance),
        out_(*results.gradient),
        vectors_(packed_, memory().normalization) {
    const CellTerm& term = packed_.term();
    const std::size_t lanes = packed_.lanes_out();
    if (source != GradientSource::kSum) {
      products_ = reserve<State>(at_.memory.operations[slot].products, packed_.products() * at_.cell.images);
    }
    moments_ = memory().moments.zeros(2 * lanes * at_.cell.images);
    vectors_.set_result(packed_, mean_, variance_);
    std::fill(vectors_.centre, vectors_.centre + lanes, 0.0f);
    for (int c = 0; c < term.out_channels && normalized(); ++c) {
      vectors_.centre[c] =
          source_ == GradientSource::kProducts ? static_cast<float>(mean_[c]) : packed_.operation().beta[c];
    }
    for (int run = 0; run < runs(); ++run) at_.memory.sums[run][index_].zeros(sums_size());
  }

  // The moments of an image's gradient; those of the batch, once all images have theirs; the gradients of an image.
  void measure(const Visit& visit) const { measure_image(visit, at_.memory.threads[visit.thread]); }
  void combine() const;
  void differentiate(const Visit& visit) const { differentiate_image(visit, at_.memory.threads[visit.thread]); }

  // The gradients of the weights, once all images have been.
  void finish() const {
    if (!separable()) return;
    double* total = at_.memory.sums[0][index_].data();
    for (int run = 1; run < runs(); ++run) {
      const double* other = at_.memory.sums[run][index_].data();
      for (std::size_t i = 0; i < sums_size(); ++i) total[i] += other[i];
    }
    write_gradients(packed_, total, total + depthwise_begin(), total + depthwise_begin() + depthwise_size(), out_);
  }

 private:
  OperationMemory& memory() const { return at_.memory.operations[index_]; }
  bool separable() const { return packed_.term().kind == CellKind::kSeparable; }
  bool normalized() const { return packed_.operation().normalized; }
  std::size_t lanes_in() const { return std::size_t{kBlock} * packed_.term().blocks; }
  std::size_t depthwise_begin() const { return separable() ? packed_.lanes_out() * lanes_in() : 0; }
  std::size_t depthwise_size() const { return filters_plane(packed_.term()) ? lanes_in() * packed_.taps() : 0; }
  std::size_t slope_size() const { return separable() ? lanes_in() : 0; }
  int runs() const { return runs_of(at_.cell.images, at_.threads); }
  std::size_t sums_size() const { return depthwise_begin() + depthwise_size() + slope_size(); }

  OutputGradientOf<State> gradient_of(int image) const {
    return {at_.grad + image * elements_of(at_.state()), at_.state().channels, packed_.operation().first_out};
  }

  ImageViewOf<State> view(int image, const ThreadMemory<State>& mine) const {
    if (source_ == GradientSource::kSum) {
      return {at_.values(image) + packed_.operation().first_out, at_.state().channels, kBlock, false};
    }
    return packed_.products_of(mine.inputs[0], products_ + image * packed_.products());
  }

  void measure_image(const Visit& visit, ThreadMemory<State>& mine) const {
    const int image = visit.image;
    const std::size_t lanes = packed_.lanes_out();
    if (source_ == GradientSource::kRemainder) subtract_others(image, mine);
    packed_.parts_of(at_.states, image, mine.inputs);
    if (source_ == GradientSource::kProducts)
      packed_.multiply(mine, visit.next, products_ + image * packed_.products());
    at_.set.gradient_moments(packed_.term(), gradient_of(image), view(image, mine), vectors_.centre,
                             moments_ + 2 * image * lanes, moments_ + (2 * image + 1) * lanes);
  }

  void subtract_others(int image, ThreadMemory<State>& mine) const {
    const std::ptrdiff_t elements = elements_of(at_.state());
    int terms = 0;
    for (std::size_t i = 0; i < at_.packed.size(); ++i) {
      if (i == index_) continue;
      OperationMemory& other = at_.memory.operations[i];
      const State* products = reserve<State>(other.products, 0) + image * at_.packed[i].products();
      mine.terms[terms++] = term_of(at_.packed[i], at_.states, image, mine, other, products);
    }
    for (std::size_t r = 0; r < at_.residuals.size(); ++r) {
      mine.residuals[r] = at_.states[at_.residuals[r]] + image * elements;
    }
    at_.set.remaining_result({.pixels = static_cast<int>(packed_.pixels()),
                              .channels = at_.state().channels,
                              .terms = mine.terms.data(),
                              .term_count = terms,
                              .residuals = mine.residuals.data(),
                              .residual_count = static_cast<int>(at_.residuals.size()),
                              .accumulate = false,
                              .out = products_ + image * packed_.products()},
                             at_.values(image));
  }

  void differentiate_image(const Visit& visit, ThreadMemory<State>& mine) const {
    const int image = visit.image;
    packed_.parts_of(at_.states, image, mine.inputs);
    packed_.parts_of(at_.grad_states, image, mine.grad_inputs);
    packed_.parts_of(before_, image, mine.before);
    double* sums = at_.memory.sums[visit.run][index_].data();
    const CellGradientOf<State> args = {.input = mine.inputs.data(),
                                        .gradient = gradient_of(image),
                                        .products = view(image, mine),
                                        .mean = vectors_.centre,
                                        .by_gradient = vectors_.by_gradient,
                                        .by_product = vectors_.by_product,
                                        .constant = vectors_.constant,
                                        .grad_input = mine.grad_inputs.data(),
                                        .before = mine.before.data(),
                                        .next = visit.next,
                                        .grad_pointwise = sums,
                                        .grad_depthwise = sums + depthwise_begin(),
                                        .grad_slope = sums + depthwise_begin() + depthwise_size()};
    at_.set.cell_gradient(packed_.term(), args, mine.scratch.reserve(0));
  }

  const SumContext<State>& at_;
  const Packed<State>& packed_;
  std::size_t index_;
  GradientSource source_;
  std::vector<const State*> before_;  // of all states
  const double *mean_, *variance_;
  const OperationGradient& out_;
  Normalization vectors_;
  State* products_ = nullptr;
  double* moments_ = nullptr;
};

// The gradients of gamma and beta, and the factors of dp, from
//   dp = scale * (g - sum(g) / n - normal * sum(g * normal) / n)
// where the normalised product `normal` is slope * (value - centre), plus what rounding took from the centre.
template <typename State>
void OperationBackward<State>::combine() const {
  const std::size_t lanes = packed_.lanes_out();
  const double count = static_cast<double>(packed_.pixels()) * at_.cell.images;
  std::fill(vectors_.by_gradient, vectors_.constant + lanes, 0.0f);
  for (int c = 0; c < packed_.term().out_channels; ++c) {
    double total = 0.0, by_distance = 0.0;
    for (int image = 0; image < at_.cell.images; ++image) {
      total += moments_[2 * image * lanes + c];
      by_distance += moments_[(2 * image + 1) * lanes + c];
    }
    if (!normalized()) {
      out_.gamma[c] = static_cast<float>(by_distance);
      vectors_.by_gradient[c] = packed_.operation().gamma[c];
      continue;
    }
    const double inverse = 1.0 / std::sqrt(variance_[c] + packed_.operation().epsilon);
    const double gamma = packed_.operation().gamma[c], scale = gamma * inverse;
    const bool products = source_ == GradientSource::kProducts;
    const double slope = products ? inverse : 1.0 / gamma;
    const double rounding = products ? static_cast<double>(vectors_.centre[c]) - mean_[c] : 0.0;
    const double by_normal = slope * (by_distance + total * rounding);
    const double by_product = -scale * by_normal / count * slope;
    out_.gamma[c] = static_cast<float>(by_normal);
    out_.beta[c] = static_cast<float>(total);
    vectors_.by_gradient[c] = static_cast<float>(scale);
    vectors_.by_product[c] = static_cast<float>(by_product);
    vectors_.constant[c] = static_cast<float>(by_product * rounding - scale * total / count);
  }
}

// The operations of one group, which read the sum's gradient once; `first` is the sum's first operation in the cell.
template <typename State>
void backward_together(const SumContext<State>& context, const std::vector<std::size_t>& group,
                       const std::vector<GradientSource>& sources, std::size_t first,
                       const std::vector<OperationResults>& results, StateGradients<State>& gradients_of) {
  const Cell& cell = context.cell;
  std::vector<OperationBackward<State>> operations;
  operations.reserve(group.size());
  for (std::size_t slot = 0; slot < group.size(); ++slot) {
    const std::size_t i = group[slot];
    const CellOperation& operation = cell.operations[first + i];
    std::vector<const State*> before(cell.states.size(), nullptr);
    for (int p = 0; p < operation.parts; ++p) {
      before[operation.first_state + p] = gradients_of.begin(operation.first_state + p);
    }
    // Where all are in one group, an operation's slot is its index, by which the remainder finds it.
    operations.emplace_back(context, i, group.size() == context.packed.size() ? i : slot, sources[i], std::move(before),
                            results[first + i]);
  }
  auto measure = [&operations](const Visit& visit) {
    for (const OperationBackward<State>& operation : operations) operation.measure(visit);
  };
  each_image(cell.images, context.threads, Order::kForwards, measure);
  for (const OperationBackward<State>& operation : operations) operation.combine();
  auto differentiate = [&operations](const Visit& visit) {
    for (const OperationBackward<State>& operation : operations) operation.differentiate(visit);
  };
  each_image(cell.images, context.threads, Order::kBackwards, differentiate);
  for (const OperationBackward<State>& operation : operations) operation.finish();
}

}  // namespace
}  // namespace cell_training

template <typename State>
void cell_backward(const Cell& cell, int threads, const std::vector<const State*>& states, const double* mean,
                   const double* variance, const std::vector<const State*>& grad_sums,
                   const std::vector<State*>& grad_inputs, const std::vector<OperationGradient>& gradients) {
  using namespace cell_training;
  const CellKernels<State>& set = cell_kernels<State>();
  const CallMemory<State> memory;
  const int used = std::min(threads, cell.images);
  const int sums = static_cast<int>(cell.states.size()) - cell.inputs;
  std::vector<State*> grad_states = grad_inputs;
  if (memory->grad_sums.size() < static_cast<std::size_t>(sums)) memory->grad_sums.resize(sums);
  for (int sum = 0; sum < sums; ++sum) {
    grad_states.push_back(
        reserve<State>(memory->grad_sums[sum], elements_of(cell.states[cell.inputs + sum]) * cell.images));
  }
  const std::vector<std::vector<double>> sizes = expected_sizes(cell);
  StateGradients<State> gradients_of(cell, set, used, grad_sums, grad_states);
  std::vector<OperationResults> results;
  for (std::size_t i = 0; i < cell.operations.size(); ++i) {
    const CellOperation& operation = cell.operations[i];
    results.push_back({mean, variance, &gradients[i]});
    mean += operation.normalized ? operation.out_channels : 0;
    variance += operation.normalized ? operation.out_channels : 0;
  }

  std::size_t end = cell.operations.size();
  for (int sum = sums - 1; sum >= 0; --sum) {
    std::size_t first = end;
    while (first > 0 && cell.operations[first - 1].sum == sum) --first;
    const int state = cell.inputs + sum;
    // What the rest of the cell makes of this state and what follows the cell.
    const State* const grad = gradients_of.gathered(state);
    const std::vector<int> residuals = residuals_of(cell, sum);
    for (const int source : residuals) gradients_of.give(source, grad);
    const std::vector<Packed<State>> packed = pack(cell, first, end, set, *memory);
    prepare_threads(packed, residuals.size(), cell.images, used, *memory);
    const std::vector<GradientSource> sources = choose_sources(cell, sum, packed, residuals, sizes[state]);
    const SumContext<State> context = {cell, sum, set, used, packed, residuals, states, grad_states, grad, *memory};
    for (const std::vector<std::size_t>& group : groups_of(sources)) {
      backward_together(context, group, sources, first, results, gradients_of);
    }
    end = first;
  }
  for (int input = 0; input < cell.inputs; ++input) gradients_of.gathered_in_memory(input);
}

#define PNF_INSTANTIATE(State)                                                                                         \
  template void cell_backward<State>(const Cell&, int, const std::vector<const State*>&, const double*, const double*, \
                                     const std::vector<const State*>&, const std::vector<State*>&,                     \
                                     const std::vector<OperationGradient>&);
PNF_INSTANTIATE(float)
PNF_INSTANTIATE(Bf16)
#undef PNF_INSTANTIATE

}  // namespace pnf
