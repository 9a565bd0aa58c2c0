// Programs for the tests of the plan: encoded as plan/program.h describes, with random weights.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <vector>

#include "plan/program.h"
#include "support.h"

namespace pnf::test {

struct Encoded {
  std::vector<std::int32_t> words;
  std::vector<float> weights;
  int height, width, embedding;
};

class ProgramBuilder {
 public:
  ProgramBuilder(int height, int width, int embedding, std::uint32_t seed, bool half = false)
      : height_(height), width_(width), embedding_(embedding), half_(half), random_(seed) {}

  // A state of its own in the arena.
  int arena(int blocks, int height, int width) { return add(false, arena_floats_, blocks, height, width, height); }
  // A state of which a group's threads hold `rows` rows each.
  int band(int blocks, int height, int width, int rows) { return add(true, band_floats_, blocks, height, width, rows); }

  // The following `steps` steps are taken `rows` rows at a time.
  void group(int rows, int steps) { item({static_cast<int>(StepKind::kGroup), rows, steps}); }

  void stem(int output) {
    const int blocks = buffers_[output].blocks;
    item({static_cast<int>(StepKind::kStem), output, constants(blocks * 27 * kBlock, 0.25f),
          constants(blocks * kBlock, 0.5f), norm()});
  }

  struct Operation {
    TermKind kind;
    int input;
    int kernel = 1, stride = 1, shift = 0;
    int first_out = 0, out_blocks = 0;  // 0: all
    bool cap = false, middle = false;
  };

  void node(int output, std::initializer_list<Operation> terms) { node(output, std::vector<Operation>(terms)); }

  void node(int output, const std::vector<Operation>& terms) {
    const int blocks = buffers_[output].blocks;
    item({static_cast<int>(StepKind::kNode), output, constants(blocks * kBlock, 0.5f), static_cast<int>(terms.size())});
    for (const Operation& term : terms) {
      const int channels = buffers_[term.input].blocks * kBlock;
      const int out_blocks = term.out_blocks == 0 ? blocks : term.out_blocks;
      const bool alone = term.kind == TermKind::kDepthwiseAlone;
      const bool pooled = term.kind == TermKind::kDepthwisePooled;
      const bool depthwise = alone || pooled || term.kind == TermKind::kDepthwise;
      const bool product = term.kind == TermKind::kDepthwise || term.kind == TermKind::kPointwise ||
                           term.kind == TermKind::kPooledPointwise || pooled;
      const bool pool = term.kind == TermKind::kMaxPool || term.kind == TermKind::kAvgPool;
      append(
          {static_cast<int>(term.kind), term.input, term.kernel, term.stride, term.shift, term.first_out, out_blocks});
      append({product || alone ? constants(channels, 0.5f) : -1});
      append({depthwise ? filters(channels * term.kernel * (term.kernel + (half_ ? 1 : 0))) : -1});
      append({product ? filters(channels * out_blocks * kBlock) : -1});
      append({pool ? constants(channels, 1.0f) : -1});
      append({term.cap ? caps(channels) : -1});
      append({term.middle || alone ? middle(channels) : -1});
    }
  }

  void global_depthwise(int input, int output, bool capped = false) {
    const Buffer& in = buffers_[input];
    const int channels = in.blocks * kBlock;
    item({static_cast<int>(StepKind::kGlobalDepthwise), input, output, constants(channels, 0.5f),
          constants(channels * in.height * in.width, 0.3f), constants(channels, 0.5f), capped ? caps(channels) : -1});
  }

  void linear(int input) {
    const int outputs = blocks_of(embedding_) * kBlock;
    item({static_cast<int>(StepKind::kLinear), input, constants(buffers_[input].blocks * kBlock * outputs, 0.3f),
          constants(outputs, 0.5f)});
  }

  // The next part of the result.
  void map(int input, int channels) { item({static_cast<int>(StepKind::kMap), input, channels}); }

  // The sides of images may be any multiples of it.
  void set_unit(int unit) { unit_ = unit; }

  Encoded finish() const {
    std::vector<std::int32_t> words = {kProgramMagic,
                                       half_ ? kBf16Program : kFloatProgram,
                                       0,
                                       height_,
                                       width_,
                                       0,
                                       embedding_,
                                       static_cast<int>(buffers_.size()),
                                       items_,
                                       arena_floats_,
                                       band_floats_,
                                       static_cast<int>(weights_.size()),
                                       unit_};
    for (const Buffer& b : buffers_) {
      words.insert(words.end(), {b.in_band ? 1 : 0, b.offset, b.blocks, b.height, b.width, b.rows});
    }
    words.insert(words.end(), body_.begin(), body_.end());
    words[kLengthWord] = static_cast<int>(words.size());
    return {words, weights_, height_, width_, embedding_};
  }

  // The same program with the absolute values of all weights and without caps: of an image's absolute values, it computes
  // what bounds each state of the program, and each of its sums of absolute products.
  Encoded bounding() const {
    Encoded result = finish();
    result.weights = bounding_;
    return result;
  }

 private:
  int add(bool in_band, int& floats, int blocks, int height, int width, int rows) {
    buffers_.push_back({in_band, floats, blocks, height, width, rows});
    floats += blocks * rows * width * kBlock;
    return static_cast<int>(buffers_.size()) - 1;
  }

  int constants(int count, float magnitude) {
    const int offset = static_cast<int>(weights_.size());
    const std::vector<float> values = random_.reals(count, -magnitude, magnitude);
    weights_.insert(weights_.end(), values.begin(), values.end());
    for (const float value : values) bounding_.push_back(std::fabs(value));
    return offset;
  }

  // So many weights of a convolution, two to a word in half precision.
  int filters(int count) {
    if (!half_) return constants(count, 0.3f);
    const int offset = static_cast<int>(weights_.size());
    const std::vector<float> values = random_.reals(count, -0.3f, 0.3f);
    for (int i = 0; i + 1 < count; i += 2) {
      weights_.push_back(pair_word(values[i], values[i + 1]));
      bounding_.push_back(pair_word(std::fabs(values[i]), std::fabs(values[i + 1])));
    }
    return offset;
  }

  int caps(int count) {
    const int offset = static_cast<int>(weights_.size());
    const std::vector<float> values = random_.reals(count, 0.5f, 2.0f);
    weights_.insert(weights_.end(), values.begin(), values.end());
    bounding_.insert(bounding_.end(), values.size(), std::numeric_limits<float>::max());
    return offset;
  }

  // Biases, slopes and caps by blocks.
  int middle(int channels) {
    const int offset = static_cast<int>(weights_.size());
    for (int block = 0; block < channels; block += kBlock) {
      constants(2 * kBlock, 0.5f);
      caps(kBlock);
    }
    return offset;
  }

  int norm() {
    const int offset = static_cast<int>(weights_.size());
    for (std::vector<float>* weights : {&weights_, &bounding_}) {
      weights->insert(weights->end(), {127.5f, 127.5f, 127.5f, 1 / 127.5f, 1 / 127.5f, 1 / 127.5f});
    }
    return offset;
  }

  void item(std::initializer_list<std::int32_t> words) {
    ++items_;
    append(words);
  }
  void append(std::initializer_list<std::int32_t> words) { body_.insert(body_.end(), words); }

  int height_, width_, embedding_;
  bool half_;
  Random random_;
  std::vector<Buffer> buffers_;
  std::vector<std::int32_t> body_;
  std::vector<float> weights_, bounding_;
  int items_ = 0, arena_floats_ = 0, band_floats_ = 0, unit_ = 0;
};

// A network with every kind of step and term: a stem, a cell whose last node is projected as its rows are completed,
// a factorised reduction, a reducing node, what depthwise-separable networks need besides, and a tail. Without `grouped`, the node lies in the arena as all others do.
// The image's sides are multiples of 4.
inline Encoded small_network(int height, int width, int channel_blocks, int embedding, std::uint32_t seed,
                             bool grouped = true, bool half = false) {
  using enum TermKind;
  ProgramBuilder b(height, width, embedding, seed, half);
  const int c = channel_blocks, h = height / 2, w = width / 2;
  const int rows = std::min(2, h);
  const int stem = b.arena(c, h, w), first = b.arena(c, h, w), second = b.arena(c, h, w);
  const int state = grouped ? b.band(c, h, w, rows) : b.arena(c, h, w), projected = b.arena(2 * c, h, w);
  const int reduced = b.arena(2 * c, h / 2, w / 2), last = b.arena(2 * c, h / 2, w / 2);
  const int separable = b.arena(c, h / 2, w / 2), wide = b.arena(c, h, w), narrow = b.arena(2 * c, h / 2, w / 2);
  const int vector = b.arena(2 * c, 1, 1);

  b.stem(stem);
  b.node(first, {{kPointwise, stem}});
  b.node(second, {{kDepthwise, first, 3}, {kMaxPool, stem, 3}});
  if (grouped) b.group(rows, 2);
  b.node(state, {{kDepthwise, second, 7}, {kAvgPool, first, 3}, {kIdentity, stem}});
  b.node(projected, {{kPointwise, state}, {kPointwise, second, 1, 1, 0, c, c}});
  b.node(reduced, {{kPointwise, projected, 1, 2, 0, 0, c}, {kPointwise, projected, 1, 2, 1, c, c}});
  b.node(last, {{kDepthwise, projected, 5, 2},
                {kMaxPool, projected, 3, 2},
                {kAvgPool, projected, 3, 2},
                {kIdentity, reduced},
                {kDepthwise, reduced, 5}});
  b.node(separable, {{kDepthwise, last, 3, 1, 0, 0, 0, true, true}, {kPooledPointwise, projected, 1, 2}});
  b.node(wide, {{kDepthwiseAlone, stem, 3, 1, 0, 0, 0, true}, {kUpsampled, separable}, {kDepthwiseAlone, first, 5}});
  b.node(narrow,
         {{kPointwise, wide, 1, 2, 0, 0, 0, true}, {kPooledPointwise, wide, 1, 2, 0, 0, 0, true}, {kIdentity, last}});
  b.global_depthwise(narrow, vector, true);
  b.linear(vector);
  return b.finish();
}

// A detector: maps of two sizes from a network with every kind of step and term that knows no size of images.
inline Encoded small_detector(int height, int width, std::uint32_t seed, bool half = false, int rolling_rows = 0) {
  using enum TermKind;
  ProgramBuilder b(height, width, height * width / 16 * 5 + height * width / 64 * 20, seed, half);
  b.set_unit(8);
  const int h = height / 2, w = width / 2;
  constexpr int kRows = 2;
  const int stem = rolling_rows > 0 ? b.arena(1, h, w) : b.band(1, h, w, kRows), first = b.arena(2, h, w),
            fine = b.arena(2, h / 2, w / 2);
  const int coarse = b.arena(2, h / 4, w / 4), merged = b.arena(2, h / 2, w / 2), out = b.arena(1, h / 2, w / 2);
  if (rolling_rows > 0) {
    b.group(rolling_rows, 6);
  } else {
    b.group(kRows, 2);
  }
  b.stem(stem);
  b.node(first, {{kPointwise, stem, 1, 1, 0, 0, 0, true}});
  b.node(fine, {{kDepthwise, first, 3, 2, 0, 0, 0, false, true},
                {kPooledPointwise, first, 1, 2},
                {kDepthwisePooled, first, 3, 2, 0, 0, 0, true, true}});
  b.node(coarse, {{kMaxPool, fine, 3, 2}, {kPointwise, fine, 1, 2, 1}});
  b.node(merged, {{kDepthwiseAlone, fine, 3}, {kUpsampled, coarse}, {kIdentity, fine}});
  b.node(out, {{kDepthwise, merged, 5}});
  b.map(out, 5);
  b.map(coarse, 20);
  return b.finish();
}

}  // namespace pnf::test
