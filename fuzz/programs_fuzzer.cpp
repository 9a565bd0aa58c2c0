// Generated programs by every instruction set that this processor has: all agree with the scalar kernels within the bound
// that the kernels' contracts state.
//
// Each step of a set errs by at most `relative` times its sum of absolute products (kernels/node/node.h and its
// neighbours). Absolute values bound these sums through the whole program: run on the absolute values of the image, with
// those of all weights, without caps and without rounding beyond the steps' own, it gives `size`, what the result could be
// at most. PReLU with slopes of at most 1, caps and pools do not enlarge errors, so a result is off by at most
// (product of (1 + relative) - 1) * size, and two sets differ by twice that.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "input.h"
#include "plan/executor.h"
#include "program_builder.h"
#include "require.h"

namespace {

using pnf::StepKind;
using pnf::TermKind;
using pnf::fuzz::Input;
using pnf::test::Encoded;
using pnf::test::ProgramBuilder;

constexpr int kMostNodes = 5, kMostTerms = 4;

struct State {
  int buffer, blocks, height, width;
};

// A program, and how far two sets may be apart in its result, as a part of its size.
struct Generated {
  Encoded program, bounding;
  double apart = 0;
};

class Generator {
 public:
  explicit Generator(Input& input) : input_(input), half_(input.below(2)) {}

  Generated draw() {
    const int height = 4 * (1 + input_.below(5)), width = 4 * (1 + input_.below(5));
    const std::uint32_t seed = input_.value<std::uint16_t>();
    shapes_.push_back({0, 1 + input_.below(3), height / 2, width / 2});
    nodes_.resize(static_cast<std::size_t>(1 + input_.below(kMostNodes)));
    for (Node& node : nodes_) draw_node(node);
    const bool embeds = input_.below(2);
    const State last = shapes_.back();
    const int dim = 1 + input_.below(40), channels = 1 + input_.below(last.blocks * pnf::kBlock);
    ProgramBuilder b(height, width, embeds ? dim : channels * last.height * last.width, seed, half_);
    for (State& shape : shapes_) shape.buffer = b.arena(shape.blocks, shape.height, shape.width);
    grows(30, half_ ? 3 : 0);
    b.stem(shapes_[0].buffer);
    const std::size_t grouped =
        input_.below(2) ? static_cast<std::size_t>(input_.below(static_cast<int>(nodes_.size()))) : nodes_.size();
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      if (i == grouped && i + 1 < nodes_.size()) b.group(1 + input_.below(3), static_cast<int>(nodes_.size() - i));
      add_node(b, nodes_[i], shapes_[i + 1]);
    }
    if (embeds) {
      const int vector = b.arena(last.blocks, 1, 1);
      b.global_depthwise(shapes_.back().buffer, vector, input_.below(2));
      b.linear(vector);
      grows(last.height * last.width + 2, half_ ? 2 : 0);
      grows(last.blocks * pnf::kBlock + 2, half_ ? 1 : 0);
    } else {
      b.map(shapes_.back().buffer, channels);
    }
    Generated result{b.finish(), b.bounding(), 0};
    result.apart = 2 * (grown_ - 1);
    return result;
  }

 private:
  struct Node {
    std::vector<ProgramBuilder::Operation> terms;
    int work = 0;  // what the contract multiplies by 2^-24
  };

  // A step's error: so many roundings of floats, and of values to Bf16.
  void grows(int floats, int halves) { grown_ *= (1 + floats * 0x1p-24) * std::pow(1 + 0x1p-8, halves); }

  void draw_node(Node& node) {
    const int from = input_.below(static_cast<int>(shapes_.size()));
    const State source = shapes_[static_cast<std::size_t>(from)];
    const int stride = source.height % 4 == 0 && source.width % 4 == 0 && input_.below(3) == 0 ? 2 : 1;
    const State output = {0, input_.below(2) ? source.blocks : 1 + input_.below(3), source.height / stride,
                          source.width / stride};
    int widest = 1, panels = 0;
    const int terms = 1 + input_.below(kMostTerms);
    for (int i = 0; i < terms; ++i) {
      const int at = i == 0 ? from : input_.below(static_cast<int>(shapes_.size()));
      const State input = shapes_[static_cast<std::size_t>(at)];
      ProgramBuilder::Operation term = {static_cast<TermKind>(input_.below(9)), at};
      const bool up = term.kind == TermKind::kUpsampled;
      const int ratio = up ? 1 : input.height / output.height;
      const bool fits = up ? 2 * input.height == output.height && 2 * input.width == output.width
                           : (ratio == 1 || ratio == 2) && input.height == ratio * output.height &&
                                 input.width == ratio * output.width;
      const bool keeps = !(term.kind == TermKind::kPointwise || term.kind == TermKind::kPooledPointwise ||
                           term.kind == TermKind::kDepthwise || term.kind == TermKind::kDepthwisePooled);
      if (!fits || (keeps && input.blocks != output.blocks)) continue;
      term.stride = up ? 1 : ratio;
      const bool pools_pairs = term.kind == TermKind::kPooledPointwise || term.kind == TermKind::kDepthwisePooled;
      if (pools_pairs && (ratio != 2 || input.height % 2 != 0 || input.width % 2 != 0)) continue;
      const bool windowed = term.kind == TermKind::kDepthwise || term.kind == TermKind::kDepthwiseAlone ||
                            term.kind == TermKind::kDepthwisePooled;
      if (windowed) term.kernel = 3 + 2 * input_.below(3);
      if (term.kind == TermKind::kMaxPool || term.kind == TermKind::kAvgPool) term.kernel = 3;
      if (term.kind == TermKind::kIdentity && term.stride != 1) continue;
      if (term.kind == TermKind::kPointwise && term.stride == 2) term.shift = input_.below(2);
      term.cap = !keeps && input_.below(4) == 0;
      term.middle = windowed && input_.below(2);
      widest = std::max(widest, term.kernel);
      panels += keeps ? 0 : input.blocks;
      node.terms.push_back(term);
    }
    if (node.terms.empty()) node.terms.push_back({TermKind::kPointwise, from, 1, stride});
    if (node.terms.size() == 1 && panels == 0) panels = source.blocks;
    node.work = widest * widest + 16 * panels + static_cast<int>(node.terms.size()) + 6;
    shapes_.push_back(output);
  }

  void add_node(ProgramBuilder& b, const Node& node, const State& output) {
    std::vector<ProgramBuilder::Operation> terms = node.terms;
    for (auto& term : terms) term.input = shapes_[static_cast<std::size_t>(term.input)].buffer;
    b.node(output.buffer, terms);
    // PReLU's result and a convolution's before the product, and the sum.
    grows(node.work, half_ ? 3 : 0);
  }

  Input& input_;
  bool half_;
  std::vector<State> shapes_;
  std::vector<Node> nodes_;
  double grown_ = 1;
};

std::vector<float> run(const Encoded& program, const std::vector<float>& image, const char* isa) {
  pnf::force_isa(isa);
  std::vector<float> result(static_cast<std::size_t>(program.embedding));
  pnf::RunOptions options;
  pnf::execute(program.words, program.weights, {1, image.data(), nullptr}, options, result.data());
  return result;
}

template <typename Sets>
void compare(const Sets& sets, const Generated& generated, const std::vector<float>& image) {
  std::vector<float> absolute = image;
  for (float& x : absolute) x = std::fabs(x);
  const std::vector<float> expected = run(generated.program, image, "scalar");
  const std::vector<float> size = run(generated.bounding, absolute, "scalar");
  for (const auto& set : sets) {
    if (!set.available) continue;
    const std::vector<float> found = run(generated.program, image, set.name);
    for (std::size_t i = 0; i < found.size(); ++i) {
      // The bounding program rounds as the others do, and the last bit of a float may be lost where nothing else is.
      const double apart = std::fabs(double{found[i]} - double{expected[i]});
      const double bound = 1.01 * (1 + generated.apart) * generated.apart * size[i] + 1e-30;
      if (!(apart <= bound)) {
        std::fprintf(stderr, "%s: result %zu is %.9g, scalar's %.9g, bound %.3g\n", set.name, i, found[i], expected[i],
                     bound);
      }
      REQUIRE(std::isfinite(found[i]) && apart <= bound);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const Generated generated = Generator(input).draw();
  const Encoded& program = generated.program;
  std::vector<float> image;
  const auto count = static_cast<std::size_t>(3 * program.height * program.width);
  for (const std::uint8_t byte : input.bytes(count)) image.push_back((static_cast<float>(byte) - 127.5f) / 127.5f);
  try {
    if (program.words[pnf::kVersionWord] == pnf::kBf16Program) {
      compare(pnf::compiled_bf16_kernels(), generated, image);
    } else {
      compare(pnf::compiled_kernels(), generated, image);
    }
  } catch (const std::invalid_argument&) {
    // Groups may be asked for that are none.
    return -1;
  }
  return 0;
}
