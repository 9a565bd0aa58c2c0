// The tail's kernels on every available instruction set against the equations of tail.h evaluated in float64.
#include "kernels/tail/tail.h"

#include "check.h"
#include "kernels/dispatch.h"
#include "support.h"

namespace pnf::test {
namespace {

constexpr float kUnusual[] = {0.0f, kNan, std::numeric_limits<float>::infinity()};  // 0: an ordinary value

template <typename State>
void global_depthwise(int channels, int pixels, float planted, Random& random) {
  const bool misaligned = random.chance(2);
  const int blocks = blocks_of(channels), roundings = pixels + 2, halvings = sizeof(State) == 4 ? 0 : 1;
  std::vector<float> input = random.reals(static_cast<std::size_t>(channels) * pixels, -2.0f, 2.0f);
  input[random.integer(0, channels * pixels - 1)] = planted;
  input = rounded<State>(input);
  const std::vector<float> slope = random.reals(channels, -0.5f, 1.5f);
  const std::vector<float> weights = random.reals(input.size(), -1.0f, 1.0f);
  const std::vector<float> bias = random.reals(channels, -1.0f, 1.0f);
  const std::vector<float> cap = random.reals(channels, 0.25f, 1.5f);
  const bool capped = random.chance(2);

  const ConstantsOf<State> packed_input(to_blocks(input, channels, pixels), misaligned);
  const Constants packed_slope(to_blocks(slope, channels, 1), misaligned);
  const Constants packed_weights(to_blocks(weights, channels, pixels), misaligned);
  const Constants packed_bias(to_blocks(bias, channels, 1), misaligned);
  const Constants packed_cap(to_blocks(cap, channels, 1), misaligned);
  GuardedOf<State> output(static_cast<std::size_t>(blocks) * kBlock, misaligned);
  const GlobalDepthwiseOf<State> args = {pixels,
                                         packed_input.get(),
                                         static_cast<std::ptrdiff_t>(pixels) * kBlock,
                                         packed_slope.get(),
                                         packed_weights.get(),
                                         packed_bias.get(),
                                         output.get(),
                                         capped ? packed_cap.get() : nullptr};
  const int begin = random.integer(0, blocks - 1), end = random.integer(begin + 1, blocks);

  for (const auto& set : kernel_sets(State{})) {
    if (!is_tested(set)) continue;
    output.poison();
    set.global_depthwise(args, begin, end);
    CHECK(output.guards_intact(), "%s %dx%d writes outside its memory", set.name, channels, pixels);
    for (int c = 0; c < blocks * kBlock; ++c) {
      const float actual = to_float(output.get()[c]);
      if (c < begin * kBlock || c >= end * kBlock) {
        CHECK(output.untouched(c), "%s %dx%d writes besides its blocks", set.name, channels, pixels);
        continue;
      }
      if (c >= channels) {
        CHECK(actual == 0.0f, "%s %dx%d: surplus channel %d is %g", set.name, channels, pixels, c, actual);
        continue;
      }
      Exact expected;
      expected.add(bias[c]);
      for (int p = 0; p < pixels; ++p) {
        const double value = input[static_cast<std::size_t>(c) * pixels + p];
        const double active = std::signbit(value) ? value * slope[c] : value;
        expected.add(weights[static_cast<std::size_t>(c) * pixels + p] * (capped && active > cap[c] ? cap[c] : active));
      }
      CHECK(within(actual, expected, roundings, halvings), "%s %dx%d: channel %d is %.9g, not %.9g", set.name, channels,
            pixels, c, actual, expected.value);
    }
  }
}

template <typename State>
void linear(int inputs, int outputs, bool accumulate, float planted, Random& random) {
  const bool misaligned = random.chance(2);
  const int blocks = blocks_of(outputs), roundings = inputs + 2;
  std::vector<float> input = random.reals(inputs, -2.0f, 2.0f);
  input[random.integer(0, inputs - 1)] = planted;
  input = rounded<State>(input);
  const std::vector<float> weights = random.reals(static_cast<std::size_t>(outputs) * inputs, -1.0f, 1.0f);
  const std::vector<float> bias = random.reals(outputs, -1.0f, 1.0f);
  const std::vector<float> before = random.reals(outputs, -1.0f, 1.0f);

  const ConstantsOf<State> exact_input(input, misaligned);
  const Constants packed_weights(to_blocks(weights, outputs, inputs), misaligned);
  const Constants packed_bias(to_blocks(bias, outputs, 1), misaligned);
  Guarded output(outputs, misaligned);
  const LinearOf<State> args = {inputs,       exact_input.get(), packed_weights.get(), packed_bias.get(), outputs,
                                output.get(), accumulate};
  const int begin = random.integer(0, blocks - 1), end = random.integer(begin + 1, blocks);

  for (const auto& set : kernel_sets(State{})) {
    if (!is_tested(set)) continue;
    output.poison();
    for (int n = begin * kBlock; accumulate && n < outputs && n < end * kBlock; ++n) output.get()[n] = before[n];
    set.linear(args, begin, end);
    CHECK(output.guards_intact(), "%s %d to %d writes outside its memory", set.name, inputs, outputs);
    for (int n = 0; n < outputs; ++n) {
      if (n < begin * kBlock || n >= end * kBlock) {
        CHECK(output.untouched(n), "%s %d to %d writes besides its blocks", set.name, inputs, outputs);
        continue;
      }
      Exact expected;
      expected.add(bias[n]);
      if (accumulate) expected.add(before[n]);
      for (int k = 0; k < inputs; ++k) {
        expected.add(static_cast<double>(weights[static_cast<std::size_t>(n) * inputs + k]) * input[k]);
      }
      CHECK(within(output.get()[n], expected, roundings), "%s %d to %d: output %d is %.9g, not %.9g", set.name, inputs,
            outputs, n, output.get()[n], expected.value);
    }
  }
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  Random random(1);
  for (const float planted : kUnusual) {
    for (const int channels : {1, 16, 20, 64, 130}) {
      for (const int pixels : {1, 2, 3, 4, 5, 7, 16, 49, 50}) {
        global_depthwise<float>(channels, pixels, planted, random);
        global_depthwise<pnf::Bf16>(channels, pixels, planted, random);
      }
    }
    for (const int inputs : {16, 48, 512}) {
      for (const int outputs : {1, 15, 16, 17, 40, 64, 128, 129, 200, 512}) {
        for (const bool accumulate : {false, true}) {
          linear<float>(inputs, outputs, accumulate, planted, random);
          linear<pnf::Bf16>(inputs, outputs, accumulate, planted, random);
        }
      }
    }
  }
  return check::result();
}
