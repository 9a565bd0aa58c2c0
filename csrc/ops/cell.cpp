#include "ops/cell.h"

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "ops/check.h"
#include "ops/shape.h"
#include "ops/threads.h"
#include "plan/cell.h"
#include "plan/cell/structure.h"
#include "plan/workspace.h"

namespace pnf::ops {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

constexpr const char* kName = "cell: ";

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

TensorShape sizes_of(const Tensor& t) {
  TensorShape sizes;
  for (std::int64_t i = 0; i < t.dim(); ++i) sizes.push_back(t.size(i));
  return sizes;
}

std::vector<TensorShape> sizes_of(const Tensors& tensors) {
  std::vector<TensorShape> sizes;
  for (const Tensor& t : tensors) sizes.push_back(sizes_of(t));
  return sizes;
}

// A cell and the tensors that its pointers lie in.
class Operands {
 public:
  Operands(const Tensors& inputs, const Tensors& parameters, const std::vector<std::int64_t>& structure,
           const std::vector<double>& epsilon) {
    for (const Tensor& input : inputs) check_state(input, type_of(inputs), "an input");
    cell_ = told(kName, [&] { return read_cell(sizes_of(inputs), sizes_of(parameters), structure, epsilon); });
    auto next = parameters.begin();
    const auto hold_next = [&](const char* what) {
      check_float(*next, what);
      return static_cast<const float*>(held(*next++, MemoryFormat::Contiguous));
    };
    for (CellOperation& operation : cell_.operations) {
      if (operation.kind == CellKind::kSeparable) {
        operation.slope = hold_next("slope");
        operation.depthwise = hold_next("depthwise");
        operation.pointwise = hold_next("pointwise");
      }
      operation.gamma = hold_next(operation.normalized ? "gamma" : "scale");
      if (operation.normalized) operation.beta = hold_next("beta");
    }
  }

  const Cell& cell() const { return cell_; }
  std::size_t sums() const { return cell_.states.size() - cell_.inputs; }

  std::int64_t channels() const {
    std::int64_t channels = 0;
    for (const CellOperation& operation : cell_.operations)
      channels += operation.normalized ? operation.out_channels : 0;
    return channels;
  }

  TensorShape sizes(std::size_t state) const {
    const CellState& s = cell_.states[state];
    return {cell_.images, s.channels, s.height, s.width};
  }

  template <typename State>
  const State* hold_state(const Tensor& t) {
    return static_cast<const State*>(held(t, MemoryFormat::ChannelsLast));
  }

 private:
  const void* held(const Tensor& t, MemoryFormat format) {
    held_.push_back(torch::stable::contiguous(t, format));
    return held_.back().const_data_ptr();
  }

  Tensors held_;
  Cell cell_;
};

float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

template <typename State>
Tensor empty_state(const TensorShape& sizes) {
  constexpr ScalarType kType = sizeof(State) == sizeof(float) ? ScalarType::Float : ScalarType::BFloat16;
  Tensor result =
      torch::stable::empty(sizes, kType, std::nullopt, std::nullopt, std::nullopt, MemoryFormat::ChannelsLast);
  advise_huge_pages(result.mutable_data_ptr(), static_cast<std::size_t>(result.numel()) * sizeof(State));
  return result;
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
