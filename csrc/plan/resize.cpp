#include "plan/resize.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "plan/placement.h"
#include "plan/program.h"

namespace pnf {
namespace {

class Resizing {
 public:
  Resizing(const Program& program, int height, int width, std::pmr::memory_resource* memory)
      : p_(program), buffers_(program.buffers, memory), group_rows_(memory) {
    for (const Step& step : p_.steps) {
      if (step.output >= 0) size_of(step, height, width);
    }
    rows();
    const std::pmr::vector<Life> lives = lives_of(p_);
    std::pmr::vector<std::int64_t> floats(memory);
    floats.reserve(buffers_.size());
    for (const Buffer& b : buffers_) floats.push_back(std::int64_t{b.blocks} * b.rows * b.width * kBlock);
    arena_ = place(buffers_, false, lives, floats);
    band_ = place(buffers_, true, lives, floats);
  }

  void write(std::pmr::vector<std::int32_t>& words) const {
    words[kArenaWord] = arena_;
    words[kBandWord] = band_;
    words[kResultsWord] = static_cast<std::int32_t>(results_);
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      std::int32_t* const buffer = words.data() + kHeaderWords + i * kBufferWords;
      buffer[kOffsetWord] = buffers_[i].offset;
      buffer[kBufferHeightWord] = buffers_[i].height;
      buffer[kBufferWidthWord] = buffers_[i].width;
      buffer[kRowsWord] = buffers_[i].rows;
    }
    // The rows of a group follow its kind.
    for (std::size_t i = 0; i < p_.groups.size(); ++i) {
      std::int32_t* const group = words.data() + p_.group_words[i];
      if (static_cast<StepKind>(group[0]) == StepKind::kGroup) group[1] = group_rows_[i];
    }
  }

 private:
  void size_of(const Step& step, int height, int width) {
    Buffer& out = buffers_[step.output];
    if (step.kind == StepKind::kStem) {
      out.height = (height + 1) / 2;
      out.width = (width + 1) / 2;
      return;
    }
    const ProgramTerm& term = p_.terms[step.first_term];
    const Buffer& in = buffers_[term.input];
    out.height = output_side(term.kind, term.stride, in.height);
    out.width = output_side(term.kind, term.stride, in.width);
  }

  // About as many pixels at a time as before.
  static int rows_of(int rows, const Buffer& before, const Buffer& now) {
    return std::clamp(rows * before.width / now.width, 1, now.height);
  }

  void rows() {
    for (const Group& group : p_.groups) {
      const Step& last = p_.steps[group.first_step + group.steps - 1];
      const int output = last.output >= 0 ? last.output : last.input;
      group_rows_.push_back(rows_of(group.rows, p_.buffers[output], buffers_[output]));
    }
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      Buffer& b = buffers_[i];
      b.rows = b.in_band ? rows_of(b.rows, p_.buffers[i], b) : b.height;
    }
    for (const Step& step : p_.steps) {
      if (step.kind != StepKind::kMap) continue;
      const Buffer& in = buffers_[step.input];
      results_ += std::int64_t{in.height} * in.width * step.channels;
    }
    if (results_ > kMaxFloats) throw std::invalid_argument("the result of so large an image does not fit");
  }

  const Program& p_;
  std::pmr::vector<Buffer> buffers_;
  std::pmr::vector<int> group_rows_;
  std::int64_t results_ = 0;
  int arena_ = 0, band_ = 0;
};

}  // namespace

void resize(std::span<const std::int32_t> words, std::size_t weights_floats, int height, int width,
            std::pmr::vector<std::int32_t>& resized) {
  std::pmr::memory_resource* const memory = resized.get_allocator().resource();
  Program program(memory);
  decode(words, weights_floats, program);
  const auto size = [](int h, int w) { return std::to_string(h) + " x " + std::to_string(w); };
  if (program.unit == 0) {
    throw std::invalid_argument("the network takes images of " + size(program.height, program.width) + " only");
  }
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide || height % program.unit != 0 ||
      width % program.unit != 0) {
    throw std::invalid_argument("an image of " + size(height, width) + "; its sides must be multiples of " +
                                std::to_string(program.unit) + ", at most " + std::to_string(kMaxSide));
  }
  resized.assign(words.begin(), words.end());
  resized[kHeightWord] = height;
  resized[kWidthWord] = width;
  Resizing(program, height, width, memory).write(resized);
}

}  // namespace pnf
