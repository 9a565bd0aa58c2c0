#include "ops/cell.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>

#include "ops/check.h"
#include "ops/shape.h"
#include "ops/threads.h"
#include "plan/cell.h"
#include "plan/workspace.h"

namespace pnf::ops {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

constexpr const char* kName = "cell: ";
constexpr std::size_t kWords = 8;  // of an operation in `structure`
// The kinds after those of CellKind.
constexpr std::int64_t kResidual = 4, kScaled = 5;
constexpr std::int64_t kLargest = 1 << 16;
// The kernels count the pixels of an image, sixteen numbers each, in ints.
constexpr std::int64_t kMostPixels = 1 << 26;

void check_float(const Tensor& t, const char* what) {
  PNF_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Float, kName, what, " must be float32 on the CPU, got ",
            dtype_of(t));
}

// Of the states of a call, which are its inputs, the sums, and the gradients of both.
ScalarType type_of(const Tensors& states) { return states.empty() ? ScalarType::Float : states[0].scalar_type(); }

void check_state(const Tensor& t, ScalarType type, const char* what) {
  PNF_CHECK(t.is_cpu() && (t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16), kName,
            what, " must be float32 or bfloat16 on the CPU, got ", dtype_of(t));
  PNF_CHECK(t.scalar_type() == type, kName, what, " is ", dtype_of(t), ", and the first input is not");
}

void check_sizes(const Tensor& t, std::initializer_list<std::int64_t> sizes, const char* what) {
  check_float(t, what);
  bool equal = t.dim() == static_cast<std::int64_t>(sizes.size());
  std::int64_t i = 0;
  std::string expected;
  for (const std::int64_t size : sizes) {
    equal = equal && t.size(i++) == size;
    expected += (expected.empty() ? "" : ", ") + std::to_string(size);
  }
  PNF_CHECK(equal, kName, what, " must have the shape [", expected, "], got ", shape_of(t));
}

int checked(std::int64_t value, std::int64_t low, std::int64_t high, const char* what) {
  PNF_CHECK(value >= low && value <= high, kName, what, " is ", value, "; it must lie in ", low, "..", high);
  return static_cast<int>(value);
}

// A cell and the tensors that its pointers lie in.
class Operands {
 public:
  Operands(const Tensors& inputs, const Tensors& parameters, const std::vector<std::int64_t>& structure,
           const std::vector<double>& epsilon)
      : parameters_(parameters), epsilon_(epsilon) {
    PNF_CHECK(!inputs.empty(), kName, "there is no input");
    PNF_CHECK(!structure.empty() && structure.size() % kWords == 0, kName,
              "structure must hold eight numbers an operation, got ", structure.size());
    cell_.inputs = static_cast<int>(inputs.size());
    for (const Tensor& input : inputs) {
      check_state(input, type_of(inputs), "an input");
      PNF_CHECK(input.dim() == 4 && input.size(0) == inputs[0].size(0), kName,
                "inputs must be N, C, H, W with one N, got ", shape_of(input));
      cell_.states.push_back({checked(input.size(1), 1, kLargest, "the number of an input's channels"),
                              checked(input.size(2), 1, kLargest, "an input's height"),
                              checked(input.size(3), 1, kLargest, "an input's width")});
      checked(input.size(2) * input.size(3), 1, kMostPixels, "the number of an input's pixels");
    }
    cell_.images = checked(inputs[0].size(0), 0, 1 << 20, "the number of images");
    read_.assign(inputs.size(), false);  // a sum that nothing reads is a result of the cell
    for (std::size_t i = 0; i < structure.size(); i += kWords) add(structure.data() + i);
    for (const CellResidual& residual : cell_.residuals) {
      PNF_CHECK(cell_.states[residual.state].channels == cell_.states[cell_.inputs + residual.sum].channels, kName,
                "a residual must have the channels of its sum");
    }
    for (const bool read : read_) PNF_CHECK(read, kName, "no operation reads one of the inputs");
    PNF_CHECK(next_parameter_ == parameters.size(), kName, "there are ", parameters.size(),
              " parameters; the operations have ", next_parameter_);
    PNF_CHECK(normalized_ == epsilon.size(), kName, "there are ", epsilon.size(),
              " values of epsilon; the normalised operations are ", normalized_);
  }

  const Cell& cell() const { return cell_; }
  std::size_t sums() const { return cell_.states.size() - cell_.inputs; }

  std::int64_t channels() const {
    std::int64_t channels = 0;
    for (const CellOperation& operation : cell_.operations)
      channels += operation.normalized ? operation.out_channels : 0;
    return channels;
  }

  std::vector<std::int64_t> sizes(std::size_t state) const {
    const CellState& s = cell_.states[state];
    return {cell_.images, s.channels, s.height, s.width};
  }

  const float* hold(const Tensor& t) { return static_cast<const float*>(held(t, MemoryFormat::Contiguous)); }
  template <typename State>
  const State* hold_state(const Tensor& t) {
    return static_cast<const State*>(held(t, MemoryFormat::ChannelsLast));
  }

 private:
  const void* held(const Tensor& t, MemoryFormat format) {
    held_.push_back(torch::stable::contiguous(t, format));
    return held_.back().const_data_ptr();
  }

  // words: sum, kind, first state, parts, kernel, stride, offset, first output channel
  void add(const std::int64_t* words) {
    const std::int64_t sums = static_cast<std::int64_t>(cell_.states.size()) - cell_.inputs;
    CellOperation operation = {};
    operation.sum = checked(words[0], std::max<std::int64_t>(sums - 1, 0), sums, "an operation's sum");
    const CellState source = read_states(words, operation);
    const std::int64_t kind = checked(words[1], 0, kScaled, "an operation's kind");
    if (kind >= kResidual) {
      PNF_CHECK(operation.parts == 1 && words[4] == 1 && words[5] == 1 && words[6] == 0 && words[7] == 0, kName,
                "a residual reads one state as it is, scaled or not");
      reach(operation.sum, source);
      if (kind == kResidual) {
        cell_.residuals.push_back({operation.sum, operation.first_state});
      } else {
        add_scaled(operation, source);
      }
      return;
    }
    operation.kind = static_cast<CellKind>(kind);
    read_window(words, source, operation);
    const std::int64_t channels = std::int64_t{operation.parts} * source.channels;
    operation.out_channels =
        static_cast<int>(operation.kind == CellKind::kSeparable ? read_weights(channels, operation) : channels);
    read_normalization(operation);
    reach(operation.sum, {checked(std::int64_t{operation.first_out} + operation.out_channels, 1, kLargest,
                                  "the number of a sum's channels"),
                          (source.height + operation.stride - 1) / operation.stride,
                          (source.width + operation.stride - 1) / operation.stride});
    cell_.operations.push_back(operation);
  }

  // Which states the operation reads; the shape that they share.
  CellState read_states(const std::int64_t* words, CellOperation& operation) {
    const std::int64_t before = cell_.inputs + operation.sum;
    operation.first_state = checked(words[2], 0, before - 1, "an operation's first state");
    operation.parts = checked(words[3], 1, before - words[2], "an operation's number of states");
    const CellState source = cell_.states[operation.first_state];
    for (int p = 0; p < operation.parts; ++p) {
      const CellState& part = cell_.states[operation.first_state + p];
      PNF_CHECK(part.channels == source.channels && part.height == source.height && part.width == source.width, kName,
                "the states that an operation reads must have one shape");
      if (operation.first_state + p < cell_.inputs) read_[operation.first_state + p] = true;
    }
    checked(std::int64_t{operation.parts} * source.channels, 1, kLargest,
            "the number of an operation's input channels");
    return source;
  }

  void add_scaled(CellOperation& operation, const CellState& source) {
    const Tensor& scale = parameter();
    check_sizes(scale, {source.channels}, "scale");
    operation.kind = CellKind::kNormalize;
    operation.kernel = operation.stride = 1;
    operation.out_channels = source.channels;
    operation.gamma = hold(scale);
    cell_.operations.push_back(operation);
  }

  void read_window(const std::int64_t* words, const CellState& source, CellOperation& operation) const {
    const bool separable = operation.kind == CellKind::kSeparable, alone = operation.kind == CellKind::kNormalize;
    operation.stride = checked(words[5], 1, alone ? 1 : 2, "an operation's stride");
    const std::int64_t only = alone ? 1 : 3;
    operation.kernel = checked(words[4], separable ? 1 : only, separable ? 7 : only, "an operation's kernel size");
    PNF_CHECK(operation.kernel % 2 == 1, kName, "an operation's kernel size must be odd");
    operation.offset =
        checked(words[6], 0, separable && operation.kernel == 1 ? operation.stride - 1 : 0, "an operation's offset");
    PNF_CHECK(operation.offset == 0 || (source.height % 2 == 0 && source.width % 2 == 0), kName,
              "an operation with an offset needs an even height and width, got ", source.height, " x ", source.width);
    operation.first_out = checked(words[7], 0, kLargest, "an operation's first output channel");
  }

  // The number of output channels.
  std::int64_t read_weights(std::int64_t channels, CellOperation& operation) {
    const Tensor& slope = parameter();
    const Tensor& depthwise = parameter();
    const Tensor& pointwise = parameter();
    PNF_CHECK(pointwise.dim() == 4, kName, "pointwise must be channels_out, channels_in, 1, 1, got ",
              shape_of(pointwise));
    const std::int64_t out = checked(pointwise.size(0), 1, kLargest, "the number of an operation's output channels");
    check_sizes(slope, {channels}, "slope");
    check_sizes(depthwise, {channels, 1, operation.kernel, operation.kernel}, "depthwise");
    check_sizes(pointwise, {out, channels, 1, 1}, "pointwise");
    operation.slope = hold(slope);
    operation.depthwise = hold(depthwise);
    operation.pointwise = hold(pointwise);
    return out;
  }

  void read_normalization(CellOperation& operation) {
    operation.normalized = true;
    operation.epsilon = normalized_ < epsilon_.size() ? epsilon_[normalized_] : 1.0;
    ++normalized_;
    PNF_CHECK(std::isfinite(operation.epsilon) && operation.epsilon > 0.0, kName,
              "epsilon must be positive and finite");
    const Tensor& gamma = parameter();
    const Tensor& beta = parameter();
    check_sizes(gamma, {operation.out_channels}, "gamma");
    check_sizes(beta, {operation.out_channels}, "beta");
    operation.gamma = hold(gamma);
    operation.beta = hold(beta);
  }

  // Makes the sum, or lets it grow in channels.
  void reach(int sum, const CellState& result) {
    const std::size_t index = cell_.inputs + sum;
    if (index == cell_.states.size()) {
      cell_.states.push_back(result);
      return;
    }
    CellState& state = cell_.states[index];
    PNF_CHECK(state.height == result.height && state.width == result.width, kName, "the operations of sum ", sum,
              " give ", state.height, " x ", state.width, " and ", result.height, " x ", result.width, " pixels");
    state.channels = std::max(state.channels, result.channels);
  }

  const Tensor& parameter() {
    PNF_CHECK(next_parameter_ < parameters_.size(), kName, "there are ", parameters_.size(),
              " parameters; the operations have more");
    return parameters_[next_parameter_++];
  }

  const Tensors& parameters_;
  const std::vector<double>& epsilon_;
  std::size_t next_parameter_ = 0, normalized_ = 0;
  std::vector<bool> read_;
  Tensors held_;
  Cell cell_;
};

float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

template <typename State>
Tensor empty_state(const std::vector<std::int64_t>& sizes) {
  constexpr ScalarType kType = sizeof(State) == sizeof(float) ? ScalarType::Float : ScalarType::BFloat16;
  Tensor result =
      torch::stable::empty(sizes, kType, std::nullopt, std::nullopt, std::nullopt, MemoryFormat::ChannelsLast);
  advise_huge_pages(result.mutable_data_ptr(), static_cast<std::size_t>(result.numel()) * sizeof(State));
  return result;
}

std::vector<std::int64_t> sizes_of(const Tensor& t) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t i = 0; i < t.dim(); ++i) sizes.push_back(t.size(i));
  return sizes;
}

const double* moments(const Tensor& t, std::int64_t channels) {
  PNF_CHECK(
      t.is_cpu() && t.scalar_type() == ScalarType::Double && t.dim() == 1 && t.size(0) == channels && t.is_contiguous(),
      kName, "mean and variance must be contiguous float64 of ", channels, " on the CPU");
  return static_cast<const double*>(t.const_data_ptr());
}

template <typename State>
std::tuple<Tensors, Tensor, Tensor> forward(const Tensors& inputs, Operands& given) {
  std::vector<State*> states;
  // The inputs are read only; the one list of states is for what cell_forward writes as well.
  for (const Tensor& input : inputs) states.push_back(const_cast<State*>(given.hold_state<State>(input)));
  Tensors sums;
  for (std::size_t i = 0; i < given.sums(); ++i) {
    sums.push_back(empty_state<State>(given.sizes(inputs.size() + i)));
    states.push_back(static_cast<State*>(sums.back().mutable_data_ptr()));
  }
  Tensor mean = torch::stable::empty({given.channels()}, ScalarType::Double);
  Tensor variance = torch::stable::empty({given.channels()}, ScalarType::Double);
  if (given.cell().images == 0) return {sums, torch::stable::zero_(mean), torch::stable::zero_(variance)};
  told(kName, [&] {
    cell_forward(given.cell(), threads_of_call(), states, static_cast<double*>(mean.mutable_data_ptr()),
                 static_cast<double*>(variance.mutable_data_ptr()));
  });
  return {sums, mean, variance};
}

template <typename State>
Tensors backward(const Tensors& inputs, const Tensors& grads, const Tensors& states, const Tensors& parameters,
                 const Tensor& mean, const Tensor& variance, Operands& given) {
  std::vector<const State*> data, grad_sums;
  for (std::size_t i = 0; i < states.size(); ++i) {
    check_state(states[i], type_of(inputs), "a state");
    PNF_CHECK(sizes_of(states[i]) == given.sizes(i), kName, "state ", i, " has the shape ", shape_of(states[i]));
    data.push_back(given.hold_state<State>(states[i]));
    if (i < inputs.size()) continue;
    const Tensor& grad = grads[i - inputs.size()];
    check_state(grad, type_of(inputs), "a gradient");
    const bool zero = grad.dim() == 1 && grad.numel() == 0;
    PNF_CHECK(zero || sizes_of(grad) == given.sizes(i), kName, "the gradient of sum ", i - inputs.size(),
              " has the shape ", shape_of(grad));
    grad_sums.push_back(zero ? nullptr : given.hold_state<State>(grad));
  }
  Tensors results;
  std::vector<State*> grad_inputs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    results.push_back(empty_state<State>(given.sizes(i)));
    grad_inputs.push_back(static_cast<State*>(results.back().mutable_data_ptr()));
  }
  for (const Tensor& parameter : parameters) {
    results.push_back(torch::stable::empty(sizes_of(parameter), ScalarType::Float));
  }
  if (given.cell().images == 0) {
    for (Tensor& result : results) torch::stable::zero_(result);
    return results;
  }
  std::vector<OperationGradient> gradients;
  std::size_t next = inputs.size();
  for (const CellOperation& operation : given.cell().operations) {
    OperationGradient gradient = {};
    if (operation.kind == CellKind::kSeparable) {
      gradient.slope = floats(results[next++]);
      gradient.depthwise = floats(results[next++]);
      gradient.pointwise = floats(results[next++]);
    }
    gradient.gamma = floats(results[next++]);
    if (operation.normalized) gradient.beta = floats(results[next++]);
    gradients.push_back(gradient);
  }
  told(kName, [&] {
    cell_backward(given.cell(), threads_of_call(), data, moments(mean, given.channels()),
                  moments(variance, given.channels()), grad_sums, grad_inputs, gradients);
  });
  return results;
}

}  // namespace

std::tuple<Tensors, Tensor, Tensor> cell(Tensors inputs, Tensors parameters, std::vector<std::int64_t> structure,
                                         std::vector<double> epsilon) {
  Operands given(inputs, parameters, structure, epsilon);
  return type_of(inputs) == ScalarType::Float ? forward<float>(inputs, given) : forward<Bf16>(inputs, given);
}

Tensors cell_backward(Tensors grads, Tensors states, Tensors parameters, Tensor mean, Tensor variance,
                      std::vector<std::int64_t> structure, std::vector<double> epsilon) {
  PNF_CHECK(states.size() > grads.size(), kName, "states must be the inputs and the sums");
  const Tensors inputs(states.begin(), states.end() - static_cast<std::ptrdiff_t>(grads.size()));
  Operands given(inputs, parameters, structure, epsilon);
  PNF_CHECK(given.sums() == grads.size(), kName, "there are ", grads.size(), " gradients for ", given.sums(), " sums");
  return type_of(inputs) == ScalarType::Float
             ? backward<float>(inputs, grads, states, parameters, mean, variance, given)
             : backward<Bf16>(inputs, grads, states, parameters, mean, variance, given);
}

}  // namespace pnf::ops
