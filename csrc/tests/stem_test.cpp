// The stem on every available instruction set against the equation of stem.h evaluated in float64.
#include "kernels/stem/stem.h"

#include <string>

#include "check.h"
#include "kernels/dispatch.h"
#include "support.h"

namespace pnf::test {
namespace {

constexpr int kRoundings = 30;  // the bound of stem.h
constexpr float kMean[] = {127.5f, 100.25f, 1.5f};
constexpr float kScale[] = {1.0f / 127.5f, 0.015f, 0.0625f};

struct StemCase {
  int height, width, channels;
  bool interleaved, bgr, mirror, misaligned;

  std::string describe() const {
    return std::to_string(channels) + "x" + std::to_string(height) + "x" + std::to_string(width) +
           (interleaved ? bgr ? " uint8 bgr" : " uint8 rgb" : " float") + (mirror ? " mirrored" : "");
  }
};

struct StemData {
  std::vector<float> planar;
  std::vector<std::uint8_t> interleaved;
  std::vector<float> weights;  // [channels][ky][colour][kx]
  std::vector<float> bias;     // [channels]
};

StemData draw(const StemCase& test, Random& random) {
  StemData data;
  const std::size_t pixels = std::size_t{3} * test.height * test.width;
  if (test.interleaved) {
    for (std::size_t i = 0; i < pixels; ++i) data.interleaved.push_back(random.integer(0, 255));
  } else {
    data.planar = random.reals(pixels, -1.0f, 1.0f);
  }
  data.weights = random.reals(std::size_t{27} * test.channels, -1.0f, 1.0f);
  data.bias = random.reals(test.channels, -1.0f, 1.0f);
  return data;
}

double pixel(const StemCase& test, const StemData& data, int colour, int y, int x) {
  if (y < 0 || y >= test.height || x < 0 || x >= test.width) return 0.0;
  if (test.mirror) x = test.width - 1 - x;
  if (!test.interleaved) return data.planar[(static_cast<std::size_t>(colour) * test.height + y) * test.width + x];
  const int place = test.bgr ? 2 - colour : colour;
  const double value = data.interleaved[(static_cast<std::size_t>(y) * test.width + x) * 3 + place];
  return (value - kMean[colour]) * kScale[colour];
}

template <typename State>
void run_in(const StemCase& test, const StemData& data, Random& random) {
  // In half precision: the pixels, the weights, the result.
  const int halvings = sizeof(State) == 4 ? 0 : 3;
  const int height = (test.height + 1) / 2, width = (test.width + 1) / 2, blocks = blocks_of(test.channels);
  std::vector<Exact> expected(static_cast<std::size_t>(height) * width * test.channels);
  for (int y = 0, i = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int channel = 0; channel < test.channels; ++channel, ++i) {
        expected[i].add(data.bias[channel]);
        for (int tap = 0; tap < 27; ++tap) {
          const int ky = tap / 9, colour = tap / 3 % 3, kx = tap % 3;
          expected[i].add(data.weights[channel * 27 + tap] * pixel(test, data, colour, 2 * y + ky - 1, 2 * x + kx - 1));
        }
      }
    }
  }

  const Constants planar(data.planar, test.misaligned);
  const PagedMemory bytes(data.interleaved.size(), 0);
  const auto interleaved = static_cast<std::uint8_t*>(bytes.get());
  std::copy(data.interleaved.begin(), data.interleaved.end(), interleaved);
  const Constants weights(to_blocks(data.weights, test.channels, 27), test.misaligned);
  const Constants bias(to_blocks(data.bias, test.channels, 1), test.misaligned);
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(width) * kBlock;
  const std::ptrdiff_t block_stride = (height + random.integer(0, 1)) * row;
  RowsOf<State> whole(blocks, block_stride, row, test.misaligned), parts(blocks, block_stride, row, test.misaligned);
  StemOf<State> stem = {test.height, test.width, blocks,   weights.get(), bias.get(),
                        kMean,       kScale,     test.bgr, whole.get(),   block_stride};
  const Image image = {test.interleaved ? nullptr : planar.get(), test.interleaved ? interleaved : nullptr,
                       test.mirror};
  Stem sized = {};
  sized.width = test.width;
  sized.blocks = blocks;
  Guarded scratch_memory(stem_scratch(sized), test.misaligned);

  for (const auto& set : kernel_sets(State{})) {
    if (!is_tested(set)) continue;
    const std::string name = std::string(set.name) + (halvings > 0 ? " half " : " ") + test.describe();
    const auto rows = [&](RowsOf<State>& output, int begin, int end) {
      output.write(scratch_memory, name, [&](State* out, float* scratch) {
        stem.output = out;
        set.stem_rows(stem, image, begin, end, scratch);
      });
    };

    whole.poison();
    rows(whole, 0, height);
    CHECK(whole.untouched_outside(0, height), "%s writes between its blocks", name.c_str());
    const Exact* exact = expected.data();
    for (int p = 0; p < height * width; ++p) {
      const State* actual = whole.get() + p * kBlock;
      for (int c = 0; c < test.channels; ++c, ++exact) {
        const float value = to_float(actual[c / kBlock * block_stride + c % kBlock]);
        CHECK(within(value, *exact, kRoundings, halvings), "%s: channel %d of pixel %d is %.9g, not %.9g", name.c_str(),
              c, p, value, exact->value);
      }
      if (!std::isfinite(exact[-1].value)) continue;
      for (int c = test.channels; c < blocks * kBlock; ++c) {
        const float value = to_float(actual[c / kBlock * block_stride + c % kBlock]);
        CHECK(value == 0.0f, "%s: surplus channel %d is %g", name.c_str(), c, value);
      }
    }

    parts.poison();
    const int first = random.integer(0, height), second = random.integer(first, height);
    rows(parts, first, second);
    CHECK(parts.untouched_outside(first, second), "%s writes rows besides [%d, %d)", name.c_str(), first, second);
    rows(parts, 0, first);
    rows(parts, second, height);
    CHECK(same_bits(whole.get(), parts.get(), whole.size()), "%s depends on how its rows are taken: %d, %d",
          name.c_str(), first, second);
  }
}

void run(const StemCase& test, const StemData& data, Random& random) {
  run_in<float>(test, data, random);
  run_in<Bf16>(test, data, random);
}

void every_image() {
  Random random(1);
  for (const int height : {1, 2, 3, 4, 7, 16, 29}) {
    for (const int width : {1, 2, 3, 4, 5, 13, 27, 28, 29, 57, 112}) {
      for (const bool interleaved : {false, true}) {
        for (const bool bgr : {false, true}) {
          for (const bool mirror : {false, true}) {
            if (!random.chance(kOneCaseIn)) continue;
            const StemCase test = {height, width, random.integer(1, 70), interleaved, bgr, mirror, random.chance(2)};
            StemData data = draw(test, random);
            run(test, data, random);
            if (interleaved) continue;
            constexpr float kUnusual[] = {kNan, std::numeric_limits<float>::infinity()};
            data.planar[random.integer(0, static_cast<int>(data.planar.size()) - 1)] = random.pick(kUnusual);
            run(test, data, random);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace pnf::test

int main() {
  pnf::test::every_image();
  return check::result();
}
