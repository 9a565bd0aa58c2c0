// The decoder: a valid program is accepted, a damaged one is refused or, where the damage leaves it valid, runs
// inside its memory. AddressSanitizer is the witness of the latter, so everything a program reads is allocated at
// exactly its size.
#include "plan/program.h"

#include <limits>
#include <stdexcept>

#include "check.h"
#include "kernels/dispatch.h"
#include "plan/executor.h"
#include "plan/resize.h"
#include "program_builder.h"

namespace pnf::test {
namespace {

Encoded valid_program() { return small_network(8, 4, 1, 20, 1); }

void accepts_a_valid_program() {
  const Encoded encoded = valid_program();
  Program program;
  decode(encoded.words, encoded.weights.size(), program);
  CHECK(program.height == 8 && program.width == 4 && program.results == 20, "the header is misread");
  CHECK(program.buffers.size() == 11 && program.steps.size() == 12 && program.groups.size() == 11,
        "%zu buffers, %zu steps, %zu groups", program.buffers.size(), program.steps.size(), program.groups.size());
  CHECK(program.groups[3].steps == 2 && program.groups[3].rows == 2 && program.groups[3].height == 4,
        "the group is misread");
  CHECK(program.terms.size() == 23 && program.terms[4].kind == TermKind::kAvgPool, "the terms are misread");
  const ProgramInfo info = program_info(encoded.words);
  CHECK(info.height == 8 && info.width == 4 && info.results == 20, "program_info misreads the header");
}

void refuse(const char* what, const std::vector<std::int32_t>& words, std::size_t weights) {
  Program program;
  CHECK_THROWS(std::invalid_argument, decode(words, weights, program), "accepted: %s", what);
}

void refuses_damaged_headers() {
  const Encoded encoded = valid_program();
  const std::size_t weights = encoded.weights.size();
  const auto with = [&](std::size_t at, std::int32_t value) {
    std::vector<std::int32_t> words = encoded.words;
    words[at] = value;
    return words;
  };
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
  refuse("nothing", {}, 0);
  refuse("another format", with(kMagicWord, 0), weights);
  refuse("another version", with(kVersionWord, 5), weights);
  refuse("an earlier version", with(kVersionWord, 1), weights);
  refuse("another length", with(kLengthWord, encoded.words.size() + 1), weights);
  refuse("no rows", with(kHeightWord, 0), weights);
  refuse("an image of another size", with(kWidthWord, 6), weights);
  refuse("a negative embedding", with(kResultsWord, -1), weights);
  refuse("an embedding wider than its weights", with(kResultsWord, 4096), weights);
  refuse("more buffers than words", with(kBuffersWord, kMost), weights);
  refuse("more items than words", with(kItemsWord, kMost), weights);
  refuse("an arena that its buffers leave", with(kArenaWord, 16), weights);
  refuse("an arena beyond the limit", with(kArenaWord, 1 << 28), weights);
  refuse("a band beyond the limit", with(kBandWord, 1 << 30), weights);
  refuse("a band that its buffers leave", with(kBandWord, 0), weights);
  refuse("another number of weights", encoded.words, weights - 1);
  std::vector<std::int32_t> longer = encoded.words;
  longer.push_back(0);
  ++longer[kLengthWord];
  refuse("a word left over", longer, weights);
  CHECK_THROWS(std::invalid_argument, program_info(with(kHeightWord, -1)), "program_info takes a negative height");
  CHECK_THROWS(std::invalid_argument, program_info(with(kResultsWord, kMost)), "program_info takes any embedding");
  CHECK_THROWS(std::invalid_argument, program_info(with(kVersionWord, 5)), "program_info takes any version");
  CHECK_THROWS(std::invalid_argument, program_info(std::span(encoded.words).first(11)),
               "program_info takes a truncated header");
}

// A network of one node between a stem and a vector; `terms` and the node's output are what a test is about.
Encoded one_node(int height, int width, std::initializer_list<ProgramBuilder::Operation> terms, int out_height,
                 int out_width) {
  ProgramBuilder b(2 * height, 2 * width, 16, 1);
  const int stem = b.arena(1, height, width), state = b.arena(1, out_height, out_width), vector = b.arena(1, 1, 1);
  b.stem(stem);
  b.node(state, terms);
  b.global_depthwise(state, vector);
  b.linear(vector);
  return b.finish();
}

void refuses_nodes_that_leave_their_input() {
  using enum TermKind;
  const auto refuse_node = [](const char* what, const Encoded& encoded) {
    refuse(what, encoded.words, encoded.weights.size());
  };
  refuse_node("an output larger than the input", one_node(3, 3, {{kPointwise, 0}}, 4, 3));
  refuse_node("an output smaller than the input", one_node(3, 3, {{kDepthwise, 0, 3}}, 3, 2));
  refuse_node("a stride without its size", one_node(4, 4, {{kMaxPool, 0, 3, 2}}, 4, 4));
  refuse_node("an even kernel", one_node(4, 4, {{kDepthwise, 0, 4}}, 4, 4));
  refuse_node("a depthwise kernel of 1", one_node(4, 4, {{kDepthwise, 0, 1}}, 4, 4));
  refuse_node("a shifted read of an odd height", one_node(3, 4, {{kPointwise, 0, 1, 2, 1}}, 2, 2));
  refuse_node("a shifted read of an odd width", one_node(4, 3, {{kPointwise, 0, 1, 2, 1}}, 2, 2));
  refuse_node("a shift without a stride", one_node(4, 4, {{kPointwise, 0, 1, 1, 1}}, 4, 4));
  refuse_node("a strided identity", one_node(4, 4, {{kIdentity, 0, 1, 2}}, 2, 2));
  refuse_node("output blocks that do not exist", one_node(4, 4, {{kPointwise, 0, 1, 1, 0, 0, 2}}, 4, 4));
  refuse_node("no term", one_node(4, 4, {}, 4, 4));
}

// A group that reads windows of what it writes; each is sound but for one thing.
void refuses_rolling_groups_that_lose_rows() {
  using enum TermKind;
  const auto group = [](const char* what, int steps, auto&& body) {
    ProgramBuilder b(8, 8, 16, 1);
    const int stem = b.arena(1, 4, 4), state = b.arena(1, 4, 4), vector = b.arena(1, 1, 1);
    b.stem(stem);
    b.group(2, steps);
    body(b, stem, state);
    b.global_depthwise(state, vector);
    b.linear(vector);
    const Encoded encoded = b.finish();
    if (what == nullptr) {
      Program program;
      decode(encoded.words, encoded.weights.size(), program);
      CHECK(program.groups[1].rolling, "a group with a window is not rolling");
    } else {
      refuse(what, encoded.words, encoded.weights.size());
    }
  };
  group(nullptr, 2, [](ProgramBuilder& b, int stem, int state) {
    const int between = b.arena(1, 4, 4);
    b.node(between, {{kPointwise, stem}});
    b.node(state, {{kDepthwise, between, 3}});
  });
  group("a window of a state that is written later", 2, [](ProgramBuilder& b, int stem, int state) {
    const int between = b.arena(1, 4, 4);
    b.node(state, {{kDepthwise, between, 3}});
    b.node(between, {{kPointwise, stem}});
  });
  group("a state written after it was read", 3, [](ProgramBuilder& b, int stem, int state) {
    const int between = b.arena(1, 4, 4);
    b.node(between, {{kPointwise, stem}});
    b.node(state, {{kDepthwise, between, 3}});
    b.node(stem, {{kPointwise, state}});
  });
  group("a state written twice", 3, [](ProgramBuilder& b, int stem, int state) {
    const int between = b.arena(1, 4, 4);
    b.node(between, {{kPointwise, stem}});
    b.node(between, {{kPointwise, stem}});
    b.node(state, {{kDepthwise, between, 3}});
  });
  group("a step that reads windows of its own result", 2, [](ProgramBuilder& b, int stem, int state) {
    b.node(state, {{kPointwise, stem}});
    b.node(state, {{kDepthwise, state, 3}});
  });
  group("a band in a rolling group", 2, [](ProgramBuilder& b, int stem, int state) {
    const int between = b.band(1, 4, 4, 2);
    b.node(between, {{kPointwise, stem}});
    b.node(state, {{kDepthwise, between, 3}});
  });
  group("heights that differ where nothing rolls", 2, [](ProgramBuilder& b, int stem, int state) {
    const int other = b.arena(1, 2, 2);
    b.node(other, {{kPointwise, stem, 1, 2}});
    b.node(state, {{kPointwise, stem}});
  });
}

// Each program is sound but for one thing.
void refuses_states_that_do_not_fit() {
  using enum TermKind;
  const auto network = [](const char* what, auto&& steps) {
    ProgramBuilder b(8, 8, 16, 1);
    const int stem = b.arena(1, 4, 4), vector = b.arena(1, 1, 1);
    b.stem(stem);
    steps(b, stem, vector);
    b.linear(vector);
    const Encoded encoded = b.finish();
    refuse(what, encoded.words, encoded.weights.size());
  };
  // In a group of so many rows, or in none.
  const auto unread_band = [](int rows) {
    return [rows](ProgramBuilder& b, int stem, int vector) {
      const int band = b.band(1, 4, 4, 2);
      if (rows > 0) b.group(rows, 1);
      b.node(band, {{kPointwise, stem}});
      b.global_depthwise(stem, vector);
    };
  };
  network("a band outside a group", unread_band(0));
  network("a band of other rows than its group's", unread_band(3));
  const auto window_of_a_band = [](TermKind kind) {
    return [kind](ProgramBuilder& b, int stem, int vector) {
      const int band = b.band(1, 4, 4, 2), state = b.arena(1, 4, 4);
      b.group(2, 2);
      b.node(band, {{kPointwise, stem}});
      b.node(state, {{kind, band, 3}});
      b.global_depthwise(state, vector);
    };
  };
  network("a band read by a window", window_of_a_band(kDepthwise));
  network("a band read by the tail", [](ProgramBuilder& b, int stem, int vector) {
    const int band = b.band(1, 4, 4, 2);
    b.group(2, 1);
    b.node(band, {{kPointwise, stem}});
    b.global_depthwise(band, vector);
  });
  network("a band of another group", [](ProgramBuilder& b, int stem, int vector) {
    const int band = b.band(1, 4, 4, 2), state = b.arena(1, 4, 4);
    b.group(2, 1);
    b.node(band, {{kPointwise, stem}});
    b.group(2, 1);
    b.node(state, {{kPointwise, band}});
    b.global_depthwise(state, vector);
  });
  network("a band that nothing wrote", [](ProgramBuilder& b, int, int vector) {
    const int band = b.band(1, 4, 4, 2), state = b.arena(1, 4, 4);
    b.group(2, 1);
    b.node(state, {{kPointwise, band}});
    b.global_depthwise(state, vector);
  });
  network("a state that nothing wrote", [](ProgramBuilder& b, int stem, int vector) {
    const int state = b.arena(1, 4, 4), unwritten = b.arena(1, 4, 4);
    b.node(state, {{kPointwise, stem}, {kIdentity, unwritten}});
    b.global_depthwise(state, vector);
  });
  network("a state that a later step writes", [](ProgramBuilder& b, int stem, int vector) {
    const int state = b.arena(1, 4, 4), late = b.arena(1, 4, 4);
    b.node(state, {{kAvgPool, late, 3}});
    b.node(late, {{kPointwise, stem}});
    b.global_depthwise(state, vector);
  });
  network("a state that its own step writes", [](ProgramBuilder& b, int, int vector) {
    const int state = b.arena(1, 4, 4);
    b.node(state, {{kIdentity, state}});
    b.global_depthwise(state, vector);
  });
  network("an image that nothing wrote, in the tail",
          [](ProgramBuilder& b, int, int vector) { b.global_depthwise(b.arena(1, 4, 4), vector); });
  network("a vector that nothing wrote", [](ProgramBuilder&, int, int) {});
  network("rows of a group that are not at hand", window_of_a_band(kMaxPool));
  network("a group of two heights", [](ProgramBuilder& b, int stem, int vector) {
    const int high = b.arena(1, 4, 4), low = b.arena(1, 2, 2);
    b.group(2, 2);
    b.node(high, {{kPointwise, stem}});
    b.node(low, {{kPointwise, stem, 1, 2}});
    b.global_depthwise(low, vector);
  });
  network("a group without steps", [](ProgramBuilder& b, int stem, int vector) {
    b.group(2, 0);
    b.global_depthwise(stem, vector);
  });
  network("pooling that changes the channels", [](ProgramBuilder& b, int stem, int vector) {
    const int wide = b.arena(2, 4, 4);
    b.node(wide, {{kMaxPool, stem, 3}});
    b.global_depthwise(stem, vector);
  });
  network("output blocks beyond the last", [](ProgramBuilder& b, int stem, int vector) {
    const int wide = b.arena(2, 4, 4);
    b.node(wide, {{kPointwise, stem, 1, 1, 0, 1, 2}});
    b.global_depthwise(stem, vector);
  });
  network("a global convolution that changes the channels",
          [](ProgramBuilder& b, int stem, int) { b.global_depthwise(stem, b.arena(2, 1, 1)); });
  network("a global convolution to an image",
          [](ProgramBuilder& b, int stem, int) { b.global_depthwise(stem, b.arena(1, 2, 1)); });
  network("an embedding of an image", [](ProgramBuilder& b, int stem, int) { b.linear(stem); });
  const Encoded encoded = valid_program();
  std::vector<std::int32_t> words = encoded.words;
  --words[kHeaderWords + kRowsWord];
  refuse("an arena buffer that lacks a row", words, encoded.weights.size());
}

// A step may need scratch that no word of the header states: here 16 terms with rings of 7 rows of 2048 pixels.
void refuses_more_memory_than_a_call_may_take() {
  const auto deep = [](int blocks) {
    ProgramBuilder b(8, 4096, 16, 1);
    const int stem = b.arena(blocks, 4, 2048), state = b.arena(1, 4, 2048), vector = b.arena(1, 1, 1);
    b.stem(stem);
    const ProgramBuilder::Operation term = {TermKind::kDepthwise, stem, 7};
    b.node(state, {term, term, term, term, term, term, term, term, term, term, term, term, term, term, term, term});
    b.global_depthwise(state, vector);
    b.linear(vector);
    return b.finish();
  };
  const Encoded small = deep(1), large = deep(48);
  std::string message;
  Program program;
  decode(small.words, small.weights.size(), program);
  CHECK(program.scratch_floats * sizeof(float) > std::size_t{16} * 7 * 2048 * kBlock * sizeof(float) &&
            program.lane_bytes() < kMaxCallBytes,
        "%zu bytes for rings", program.lane_bytes());
  try {
    decode(large.words, large.weights.size(), program);
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  CHECK(message.starts_with("damaged program: it needs ") && message.ends_with("the limit is 512"), "%s",
        message.c_str());
}

// Programs of the mutations below run twice, on memory that holds what other images left and on fresh memory: nothing of
// an earlier call may show.
void fill(Workspace& workspace, float value) {
  const Program& program = workspace.program;
  Lane& lane = workspace.lanes[0];
  std::fill_n(lane.arena.reserve(0), program.arena_words(), value);
  std::fill_n(lane.scratch.reserve(0), program.band_words() + program.scratch_floats, value);
}

// What a program may be run with: exactly as many weights, pixels and embedding floats as it states.
// A NaN's bits depend on the operand it came from.
bool same_numbers(const float* a, const float* b, int count) {
  for (int i = 0; i < count; ++i) {
    if (!(std::isnan(a[i]) && std::isnan(b[i])) && std::memcmp(a + i, b + i, sizeof(float)) != 0) return false;
  }
  return true;
}

bool runs(const std::vector<std::int32_t>& words, const std::vector<float>& weights, const char* set,
          bool interleaved) {
  constexpr int kMostFloats = 1 << 18;
  constexpr int kMostPixels = 1 << 12;
  constexpr int kMostOutputs = 1 << 10;
  Program program;
  const std::unique_ptr<float[]> exact(new float[weights.size()]);
  std::copy(weights.begin(), weights.end(), exact.get());
  decode(words, weights.size(), program);
  // As it is, or for another size of images.
  std::pmr::vector<std::int32_t> resized(words.begin(), words.end());
  if (program.unit > 0 && !interleaved) {
    resize(words, weights.size(), program.unit * (1 + program.unit % 3), program.unit * 2, resized);
    decode(resized, weights.size(), program);
  }
  if (program.arena_floats > kMostFloats || program.band_floats > kMostFloats || program.scratch_floats > kMostFloats ||
      program.height * program.width > kMostPixels || program.results > kMostOutputs) {
    return false;
  }
  const std::size_t pixels = std::size_t{3} * program.height * program.width;
  const std::unique_ptr<float[]> planar(new float[interleaved ? 0 : pixels]());
  const std::unique_ptr<std::uint8_t[]> bytes(new std::uint8_t[interleaved ? pixels : 0]());
  std::unique_ptr<float[]> embedding(new float[program.results]);
  const Batch batch = {1, interleaved ? nullptr : planar.get(), interleaved ? bytes.get() : nullptr};
  RunOptions options;
  options.flip = interleaved && program.steps.back().kind != StepKind::kMap;
  force_isa(set);
  std::unique_ptr<float[]> earlier(new float[program.results]);
  for (const float left : {kNan, 1e30f}) {
    // The workspace that the next call of this thread takes.
    {
      const WorkspaceLease workspace;
      workspace->program = program;
      workspace->prepare(1, 1, false);
      fill(*workspace, left);
    }
    std::swap(earlier, embedding);
    execute(resized, {exact.get(), weights.size()}, batch, options, embedding.get());
  }
  CHECK(same_numbers(earlier.get(), embedding.get(), program.results), "%s computes from what an earlier call left",
        set);
  return true;
}

std::int32_t damaged(std::int32_t word, const std::vector<std::int32_t>& words, Random& random) {
  constexpr std::int32_t kSteps[] = {-16, -1, 1, 16};
  constexpr std::int32_t kValues[] = {-1, 0, 1, 2, 3, 5, 7, 4096, 65536, 1 << 30, 1 << 28, 0x7fffffff, -0x7fffffff - 1};
  switch (random.integer(0, 4)) {
    case 0:
      return static_cast<std::int32_t>(static_cast<std::uint32_t>(word) + random.pick(kSteps));
    case 1:
      return word ^ static_cast<std::int32_t>(1u << random.integer(0, 31));
    case 2:
      return random.pick(words);
    default:
      return random.pick(kValues);
  }
}

void survives_damage() {
  constexpr int kMutations = 200000 / kOneCaseIn;
  const Encoded programs[] = {valid_program(), small_network(8, 4, 1, 20, 1, true, true), small_detector(16, 8, 1),
                              small_detector(8, 16, 1, true), small_detector(16, 8, 1, false, 2)};
  std::vector<const char*> sets;
  for (const Bf16KernelSet& set : compiled_bf16_kernels()) {
    if (set.available) sets.push_back(set.name);
  }
  Random random(2);
  int refused = 0, ran = 0, large = 0;
  std::vector<std::int32_t> words;
  std::vector<float> weights;
  for (int i = 0; i < kMutations; ++i) {
    const Encoded& encoded = random.pick(programs);
    words = encoded.words;
    weights = encoded.weights;
    const auto at = [&] { return random.integer(0, static_cast<int>(words.size()) - 1); };
    bool restate_length = true;
    switch (random.integer(0, 9)) {
      case 0:
        words.resize(at());
        restate_length = random.chance(2);
        break;
      case 1:
        words.insert(words.begin() + at(), random.integer(1, 30), damaged(0, encoded.words, random));
        break;
      case 2:
        words.erase(words.begin() + at());
        break;
      case 3: {
        const int a = at(), b = at();
        std::swap(words[a], words[b]);
        break;
      }
      case 4:
        weights.resize(random.integer(0, static_cast<int>(weights.size())));
        if (random.chance(2)) words[at()] = random.integer(0, static_cast<int>(weights.size()));
        words[kWeightsWord] = static_cast<int>(weights.size());
        break;
      case 5: {
        const int a = at(), b = at();
        words[a] = damaged(words[a], encoded.words, random);
        words[b] = damaged(words[b], encoded.words, random);
        restate_length = random.chance(2);
        break;
      }
      default: {
        const int a = at();
        words[a] = damaged(words[a], encoded.words, random);
        restate_length = a != kLengthWord;
      }
    }
    if (restate_length && words.size() > kLengthWord) words[kLengthWord] = static_cast<int>(words.size());
    try {
      if (runs(words, weights, sets[i % sets.size()], i % 2 == 0)) {
        ++ran;
      } else {
        ++large;
      }
    } catch (const std::invalid_argument&) {
      ++refused;
    }
  }
  force_isa("");
  std::fprintf(stderr, "%d mutations: %d refused, %d ran, %d too large to run here\n", kMutations, refused, ran, large);
  CHECK(refused > kMutations / 2, "only %d mutations were refused", refused);
  CHECK(ran > kMutations / 50, "only %d mutations ran", ran);
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  return check::run(accepts_a_valid_program, refuses_damaged_headers, refuses_nodes_that_leave_their_input,
                    refuses_rolling_groups_that_lose_rows, refuses_states_that_do_not_fit,
                    refuses_more_memory_than_a_call_may_take, survives_damage);
}
