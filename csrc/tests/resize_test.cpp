// A program for another size of images: the same as if it had been made for it.
#include "plan/resize.h"

#include <stdexcept>
#include <string>

#include "check.h"
#include "kernels/dispatch.h"
#include "plan/executor.h"
#include "plan/workspace.h"
#include "program_builder.h"

namespace pnf::test {
namespace {

struct Size {
  int height, width;
};

constexpr Size kBase = {32, 16};
constexpr Size kSizes[] = {{8, 8}, {8, 64}, {32, 16}, {24, 40}, {104, 72}, {256, 8}};

std::vector<float> pixels_of(const Size& size, int images) {
  Random random(7);
  return random.reals(std::size_t{3} * size.height * size.width * images, -1.0f, 1.0f);
}

// What the last call of this thread left, and more, must not show.
void spoil(const PreparedProgram&) {
  const WorkspaceLease workspace;
  for (Lane& lane : workspace->lanes) {
    for (Floats* floats : {&lane.arena, &lane.scratch}) {
      std::fill_n(floats->reserve(0), floats->bytes() / sizeof(float), kNan);
    }
  }
}

template <typename Set>
void equals_a_program_made_for_the_size(const Set& set, bool half) {
  force_isa(set.name);
  constexpr int kImages = 2;
  Random random(1);
  for (const Size& size : kSizes) {
    const Encoded made = small_detector(size.height, size.width, 1, half);
    const std::vector<float> pixels = pixels_of(size, kImages);
    const Batch batch = {kImages, pixels.data(), nullptr};
    std::vector<float> expected(std::size_t{kImages} * made.embedding), found(expected.size());
    execute(made.words, made.weights, batch, {}, expected.data());
    // Steps one after another, and those before the maps in one rolling group.
    for (const int rolling_rows : {0, 1, 3, 1000}) {
      const Encoded base = small_detector(kBase.height, kBase.width, 1, half, std::min(rolling_rows, kBase.height / 4));
      for (const int threads : {1, 2, 3}) {
        if (!random.chance(kOneCaseIn)) continue;
        const PreparedProgram prepared(base.words, base.weights, size.height, size.width);
        CHECK(prepared.info().results == made.embedding && prepared.info().height == size.height, "%d x %d: %d floats",
              size.height, size.width, prepared.info().results);
        spoil(prepared);
        RunOptions options;
        options.threads = threads;
        std::fill(found.begin(), found.end(), kNan);
        prepared.execute(batch, options, found.data());
        CHECK(same_bits(found.data(), expected.data(), found.size()), "%s%s: %d x %d on %d threads differs", set.name,
              half ? " half" : "", size.height, size.width, threads);
      }
    }
  }
}

void takes_no_more_memory_than_states_that_live_together() {
  const Encoded base = small_detector(kBase.height, kBase.width, 1);
  std::pmr::vector<std::int32_t> words;
  resize(base.words, base.weights.size(), 64, 64, words);
  Program program;
  decode(words, base.weights.size(), program);
  const auto floats = [&](int buffer) {
    const Buffer& b = program.buffers[buffer];
    return b.blocks * b.rows * b.width * kBlock;
  };
  // The first state is gone when the two sums of its results are made.
  CHECK(program.arena_floats == floats(1) + floats(2), "%d floats for states of %d, %d, %d, %d and %d",
        program.arena_floats, floats(1), floats(2), floats(3), floats(4), floats(5));
  CHECK(program.buffers[0].rows == 1 && program.groups[0].rows == 1, "%d rows of an image four times as wide",
        program.buffers[0].rows);
}

void refuses_other_sizes() {
  const Encoded base = small_detector(kBase.height, kBase.width, 1), fixed = small_network(8, 4, 1, 20, 1);
  std::pmr::vector<std::int32_t> words;
  for (const Size size : {Size{12, 8}, Size{8, 0}, Size{-8, 8}, Size{8, 4104}}) {
    CHECK_THROWS(std::invalid_argument, resize(base.words, base.weights.size(), size.height, size.width, words),
                 "%d x %d is taken", size.height, size.width);
  }
  CHECK_THROWS(std::invalid_argument, resize(fixed.words, fixed.weights.size(), 8, 4, words),
               "a network for one size of images is resized");
  std::string message;
  try {
    PreparedProgram(base.words, base.weights, 4096, 4096);
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  CHECK(message.ends_with("the limit is 512"), "%s", message.c_str());
  // And what was there before is not taken for it.
  const PreparedProgram again(base.words, base.weights, 8, 8);
  CHECK(again.info().height == 8, "a refused size is remembered");
}

void has_no_sum_with_the_mirror_image() {
  const Encoded base = small_detector(kBase.height, kBase.width, 1);
  const std::vector<float> pixels = pixels_of(kBase, 1);
  std::vector<float> found(base.embedding);
  RunOptions options;
  options.flip = true;
  CHECK_THROWS(std::invalid_argument,
               execute(base.words, base.weights, {1, pixels.data(), nullptr}, options, found.data()),
               "maps are summed");
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  for (const pnf::KernelSet& set : pnf::compiled_kernels()) {
    if (is_tested(set)) equals_a_program_made_for_the_size(set, false);
  }
  for (const pnf::Bf16KernelSet& set : pnf::compiled_bf16_kernels()) {
    if (is_tested(set)) equals_a_program_made_for_the_size(set, true);
  }
  pnf::force_isa("");
  takes_no_more_memory_than_states_that_live_together();
  refuses_other_sizes();
  has_no_sum_with_the_mirror_image();
  return check::result();
}
