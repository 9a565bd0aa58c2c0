#include "plan/cell/structure.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace pnf {
namespace {

constexpr std::size_t kWords = 8;
// The kinds after those of CellKind.
constexpr std::int64_t kResidual = 4, kScaled = 5;
constexpr std::int64_t kLargest = 1 << 16, kMostImages = 1 << 20;
// The kernels count the pixels of an image, sixteen numbers each, in ints.
constexpr std::int64_t kMostPixels = 1 << 26;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

int checked(std::int64_t value, std::int64_t low, std::int64_t high, const std::string& what) {
  if (value < low || value > high) {
    throw std::invalid_argument(what + " is " + std::to_string(value) + "; it must lie in " + std::to_string(low) +
                                ".." + std::to_string(high));
  }
  return static_cast<int>(value);
}

std::string text_of(const TensorShape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

std::string area_of(const CellState& state) {
  return std::to_string(state.height) + " x " + std::to_string(state.width);
}

class Reader {
 public:
  Reader(std::span<const TensorShape> parameters, std::span<const double> epsilon)
      : parameters_(parameters), epsilon_(epsilon) {}

  void read_inputs(std::span<const TensorShape> inputs) {
    require(!inputs.empty(), "there is no input");
    for (const TensorShape& input : inputs) {
      require(input.size() == 4 && input[0] == inputs[0][0],
              "inputs must be N, C, H, W with one N, got " + text_of(input));
      cell_.states.push_back({checked(input[1], 1, kLargest, "the number of an input's channels"),
                              checked(input[2], 1, kLargest, "an input's height"),
                              checked(input[3], 1, kLargest, "an input's width")});
      checked(input[2] * input[3], 1, kMostPixels, "the number of an input's pixels");
    }
    cell_.images = checked(inputs[0][0], 0, kMostImages, "the number of images");
    cell_.inputs = static_cast<int>(inputs.size());
    read_.assign(inputs.size(), false);  // a sum that nothing reads is a result of the cell
  }

  void read_operation(std::span<const std::int64_t, kWords> words) {
    const std::int64_t sums = static_cast<std::int64_t>(cell_.states.size()) - cell_.inputs;
    CellOperation operation = {};
    operation.sum = checked(words[0], std::max<std::int64_t>(sums - 1, 0), sums, "an operation's sum");
    const CellState source = read_states(words, operation);
    const std::int64_t kind = checked(words[1], 0, kScaled, "an operation's kind");
    if (kind == kResidual || kind == kScaled) {
      require(operation.parts == 1 && words[4] == 1 && words[5] == 1 && words[6] == 0 && words[7] == 0,
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
        static_cast<int>(operation.kind == CellKind::kSeparable ? read_weights(channels, operation.kernel) : channels);
    read_normalization(operation);
    reach(operation.sum, {checked(std::int64_t{operation.first_out} + operation.out_channels, 1, kLargest,
                                  "the number of a sum's channels"),
                          (source.height + operation.stride - 1) / operation.stride,
                          (source.width + operation.stride - 1) / operation.stride});
    cell_.operations.push_back(operation);
  }

  Cell finish() {
    for (const CellResidual& residual : cell_.residuals) {
      require(cell_.states[residual.state].channels == cell_.states[cell_.inputs + residual.sum].channels,
              "a residual must have the channels of its sum");
    }
    for (const bool read : read_) require(read, "no operation reads one of the inputs");
    require(next_parameter_ == parameters_.size(), "there are " + std::to_string(parameters_.size()) +
                                                       " parameters; the operations have " +
                                                       std::to_string(next_parameter_));
    require(normalized_ == epsilon_.size(), "there are " + std::to_string(epsilon_.size()) +
                                                " values of epsilon; the normalised operations are " +
                                                std::to_string(normalized_));
    return std::move(cell_);
  }

 private:
  // Which states the operation reads; the shape that they share.
  CellState read_states(std::span<const std::int64_t, kWords> words, CellOperation& operation) {
    const std::int64_t before = cell_.inputs + operation.sum;
    operation.first_state = checked(words[2], 0, before - 1, "an operation's first state");
    operation.parts = checked(words[3], 1, before - words[2], "an operation's number of states");
    const CellState source = cell_.states[operation.first_state];
    for (int p = 0; p < operation.parts; ++p) {
      const CellState& part = cell_.states[operation.first_state + p];
      require(part.channels == source.channels && part.height == source.height && part.width == source.width,
              "the states that an operation reads must have one shape");
      if (operation.first_state + p < cell_.inputs) read_[operation.first_state + p] = true;
    }
    checked(std::int64_t{operation.parts} * source.channels, 1, kLargest,
            "the number of an operation's input channels");
    return source;
  }

  void add_scaled(CellOperation& operation, const CellState& source) {
    read_parameter("scale", {source.channels});
    operation.kind = CellKind::kNormalize;
    operation.kernel = operation.stride = 1;
    operation.out_channels = source.channels;
    cell_.operations.push_back(operation);
  }

  void read_window(std::span<const std::int64_t, kWords> words, const CellState& source,
                   CellOperation& operation) const {
    const bool separable = operation.kind == CellKind::kSeparable, alone = operation.kind == CellKind::kNormalize;
    operation.stride = checked(words[5], 1, alone ? 1 : 2, "an operation's stride");
    const std::int64_t only = alone ? 1 : 3;
    operation.kernel = checked(words[4], separable ? 1 : only, separable ? 7 : only, "an operation's kernel size");
    require(operation.kernel % 2 == 1, "an operation's kernel size must be odd");
    operation.offset =
        checked(words[6], 0, separable && operation.kernel == 1 ? operation.stride - 1 : 0, "an operation's offset");
    require(operation.offset == 0 || (source.height % 2 == 0 && source.width % 2 == 0),
            "an operation with an offset needs an even height and width, got " + area_of(source));
    operation.first_out = checked(words[7], 0, kLargest, "an operation's first output channel");
  }

  // The number of output channels.
  std::int64_t read_weights(std::int64_t channels, int kernel) {
    read_parameter("slope", {channels});
    read_parameter("depthwise", {channels, 1, kernel, kernel});
    const TensorShape& pointwise = next_parameter();
    require(pointwise.size() == 4 && pointwise[1] == channels && pointwise[2] == 1 && pointwise[3] == 1,
            "pointwise must have the shape [channels_out, " + std::to_string(channels) + ", 1, 1], got " +
                text_of(pointwise));
    return checked(pointwise[0], 1, kLargest, "the number of an operation's output channels");
  }

  void read_normalization(CellOperation& operation) {
    operation.normalized = true;
    operation.epsilon = normalized_ < epsilon_.size() ? epsilon_[normalized_] : 1.0;
    ++normalized_;
    require(std::isfinite(operation.epsilon) && operation.epsilon > 0.0, "epsilon must be positive and finite");
    read_parameter("gamma", {operation.out_channels});
    read_parameter("beta", {operation.out_channels});
  }

  // Makes the sum, or lets it grow in channels.
  void reach(int sum, const CellState& result) {
    const std::size_t index = cell_.inputs + sum;
    if (index == cell_.states.size()) {
      cell_.states.push_back(result);
      return;
    }
    CellState& state = cell_.states[index];
    require(state.height == result.height && state.width == result.width,
            "the operations of sum " + std::to_string(sum) + " give " + area_of(state) + " and " + area_of(result) +
                " pixels");
    state.channels = std::max(state.channels, result.channels);
  }

  const TensorShape& next_parameter() {
    require(next_parameter_ < parameters_.size(),
            "there are " + std::to_string(parameters_.size()) + " parameters; the operations have more");
    return parameters_[next_parameter_++];
  }

  void read_parameter(const std::string& what, const TensorShape& expected) {
    const TensorShape& found = next_parameter();
    require(found == expected, what + " must have the shape " + text_of(expected) + ", got " + text_of(found));
  }

  std::span<const TensorShape> parameters_;
  std::span<const double> epsilon_;
  std::size_t next_parameter_ = 0, normalized_ = 0;
  std::vector<bool> read_;
  Cell cell_;
};

}  // namespace

Cell read_cell(std::span<const TensorShape> inputs, std::span<const TensorShape> parameters,
               std::span<const std::int64_t> structure, std::span<const double> epsilon) {
  Reader reader(parameters, epsilon);
  reader.read_inputs(inputs);
  require(!structure.empty() && structure.size() % kWords == 0,
          "structure must hold eight numbers an operation, got " + std::to_string(structure.size()));
  for (std::size_t i = 0; i < structure.size(); i += kWords) {
    reader.read_operation(structure.subspan(i).first<kWords>());
  }
  return reader.finish();
}

}  // namespace pnf
