#include "plan/executor.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "kernels/cpu_features.h"
#include "kernels/dispatch.h"
#include "plan/resize.h"
#include "plan/rolling.h"
#include "plan/thread_pool.h"

namespace pnf {
namespace {

float as_float(float x) { return x; }
float as_float(Bf16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16); }

// What several threads need to take an image through the program together.
struct Together {
  Phases& phases;
  std::uint32_t phase;  // the next one
  Member& member;
  int threads;
};

// One image on its way through the program, as one thread sees it.
template <typename State>
class ImageRun {
 public:
  ImageRun(const Program& program, const float* weights, const StepKernels<State>& set, float* arena, float* scratch)
      : program_(program),
        weights_(weights),
        set_(set),
        arena_(reinterpret_cast<State*>(arena)),
        band_(reinterpret_cast<State*>(scratch)),
        scratch_(scratch + program.band_words()) {}

  void run(const Image& image, float* result, bool accumulate, double* seconds) {
    for (const Group& group : program_.groups) {
      const Step& first = program_.steps[group.first_step];
      if (is_vector(first)) {
        vector_step(first, result, accumulate, 0, 1, seconds);
      } else if (first.kind == StepKind::kMap) {
        map_step(first, result, 0, 1, seconds);
      } else if (group.rolling) {
        roll(group, image, seconds);
      } else {
        bands(group, image, 0, group.height, seconds);
      }
    }
  }

  // The same, with others.
  void run(const Image& image, float* result, bool accumulate, Together& with) {
    for (const Group& group : program_.groups) {
      const Step& first = program_.steps[group.first_step];
      if (is_vector(first)) {
        const int blocks = vector_blocks(first);
        share(with, blocks,
              [&](int piece, int pieces) { vector_step(first, result, accumulate, piece, pieces, nullptr); });
      } else if (first.kind == StepKind::kMap) {
        share(with, program_.buffers[first.input].height,
              [&](int piece, int pieces) { map_step(first, result, piece, pieces, nullptr); });
      } else if (!group.rolling) {
        share(with, group.height, [&](int piece, int pieces) {
          bands(group, image, group.height * piece / pieces, group.height * (piece + 1) / pieces, nullptr);
        });
      } else {
        // Rows of other pieces are read beyond every border.
        for (int i = group.first_step; i < group.first_step + group.steps; ++i) {
          const int height = height_of(i);
          share(with, height, [&](int piece, int pieces) {
            row_step(i, image, height * piece / pieces, height * (piece + 1) / pieces, nullptr);
          });
        }
      }
    }
  }

 private:
  int height_of(int step) const { return program_.buffers[program_.steps[step].output].height; }

  static bool is_vector(const Step& step) {
    return step.kind == StepKind::kGlobalDepthwise || step.kind == StepKind::kLinear;
  }
  // Of its result.
  int vector_blocks(const Step& step) const {
    return step.kind == StepKind::kLinear ? (program_.results + kBlock - 1) / kBlock
                                          : program_.buffers[step.input].blocks;
  }

  // A phase. Threads begin with pieces that lie where their pieces of the phase before did: those are in their cache.
  template <typename Body>
  static void share(Together& with, int most, const Body& body) {
    const int pieces = std::min({with.threads, most, Phases::kMostPieces});
    const int home = with.member.index * pieces / with.threads;
    for (int piece = with.phases.take(with.phase, pieces, home); piece >= 0;
         piece = with.phases.take(with.phase, pieces, home)) {
      body(piece, pieces);
      with.phases.finish(with.phase, pieces);
    }
    with.phases.await_end(with.phase, with.member);
    ++with.phase;
  }

  void bands(const Group& group, const Image& image, int begin, int end, double* seconds) {
    for (int y = begin; y < end; y += group.rows) {
      for (int i = 0; i < group.steps; ++i) {
        row_step(group.first_step + i, image, y, std::min(y + group.rows, end), seconds);
      }
    }
  }

  // Band by band of the last step, and the others as far as it needs; at the end, all of them.
  void roll(const Group& group, const Image& image, double* seconds) {
    RollingGroup rolling(program_, group);
    rolling_ = &rolling;
    while (rolling.next()) {
      for (int i = 0; i < group.steps; ++i) {
        if (rolling.from(i) == rolling.to(i)) continue;
        make_room(program_.steps[group.first_step + i].output, rolling, i);
        row_step(group.first_step + i, image, rolling.from(i), rolling.to(i), seconds);
        rolling.finish(i);
      }
    }
    rolling_ = nullptr;
  }

  void make_room(int buffer, RollingGroup& rolling, int i) {
    const int overdue = rolling.overdue(i);
    if (overdue == 0) return;
    const Buffer& b = program_.buffers[buffer];
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(b.width) * kBlock;
    const int kept = rolling.from(i) - rolling.first(i) - overdue;
    for (int block = 0; block < b.blocks; ++block) {
      State* const front = arena_ + b.offset + block * rolling.window(i) * row;
      std::copy_n(front + overdue * row, kept * row, front);
    }
    rolling.move(i, overdue);
  }

  struct View {
    State* data;  // row y of block b at data + b * block_stride + y * width * 16
    std::ptrdiff_t block_stride;
  };

  // A band starts at row y of the image, so its rows are addressed from y rows before it; a window, from its first row.
  View view(int buffer, int y) const {
    const Buffer& b = program_.buffers[buffer];
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(b.width) * kBlock;
    if (b.in_band) return {band_ + b.offset - y * row, b.rows * row};
    const int rolling = rolling_ == nullptr ? -1 : rolling_->find(buffer);
    if (rolling < 0) return {arena_ + b.offset, b.rows * row};
    return {arena_ + b.offset - rolling_->first(rolling) * row, rolling_->window(rolling) * row};
  }

  void row_step(int index, const Image& image, int begin, int end, double* seconds) {
    const Step& step = program_.steps[index];
    const auto start = seconds != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    const Buffer& out = program_.buffers[step.output];
    const View target = view(step.output, begin);
    if (step.kind == StepKind::kStem) {
      StemOf<State> stem;
      stem.height = program_.height;
      stem.width = program_.width;
      stem.blocks = out.blocks;
      stem.weights = weights_ + step.weights;
      stem.bias = weights_ + step.bias;
      stem.mean = weights_ + step.norm;
      stem.scale = weights_ + step.norm + 3;
      stem.bgr = program_.bgr;
      stem.output = target.data;
      stem.block_stride = target.block_stride;
      set_.stem_rows(stem, image, begin, end, scratch_);
    } else {
      NodeOf<State> node;
      node.height = out.height;
      node.width = out.width;
      node.blocks = out.blocks;
      node.output = target.data;
      node.block_stride = target.block_stride;
      node.bias = weights_ + step.bias;
      node.terms = step.terms;
      node.wide_units = cpu_features().wide_units;
      for (int t = 0; t < step.terms; ++t) node.term[t] = term(program_.terms[step.first_term + t], begin);
      set_.node_rows(node, begin, end, scratch_);
    }
    add_time(step, start, seconds);
  }

  TermOf<State> term(const ProgramTerm& t, int band_begin) const {
    const Buffer& in = program_.buffers[t.input];
    const View source = view(t.input, band_begin);
    const auto at = [this](int offset) { return offset < 0 ? nullptr : weights_ + offset; };
    return {.kind = t.kind,
            .kernel = t.kernel,
            .stride = t.stride,
            .shift = t.shift,
            .height = in.height,
            .width = in.width,
            .blocks = in.blocks,
            .first_out = t.first_out,
            .out_blocks = t.out_blocks,
            .input = source.data,
            .block_stride = source.block_stride,
            .slope = at(t.slope),
            .depthwise = at(t.depthwise),
            .pointwise = at(t.pointwise),
            .scale = at(t.scale),
            .cap = at(t.cap),
            .middle = at(t.middle)};
  }

  void map_step(const Step& step, float* result, int thread, int threads, double* seconds) {
    const auto start = seconds != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    const Buffer& in = program_.buffers[step.input];
    const View source = view(step.input, 0);
    const std::ptrdiff_t pixels = std::ptrdiff_t{in.height} * in.width;
    const std::ptrdiff_t begin = pixels * thread / threads, end = pixels * (thread + 1) / threads;
    if constexpr (std::is_same_v<State, float>) {
      if (step.channels == kBlock) {
        std::copy(source.data + begin * kBlock, source.data + end * kBlock,
                  result + step.first_result + begin * kBlock);
        add_time(step, start, seconds);
        return;
      }
    }
    for (std::ptrdiff_t pixel = begin; pixel < end; ++pixel) {
      float* const out = result + step.first_result + pixel * step.channels;
      for (int c = 0; c < step.channels; ++c) {
        out[c] = as_float(source.data[c / kBlock * source.block_stride + pixel * kBlock + c % kBlock]);
      }
    }
    add_time(step, start, seconds);
  }

  void vector_step(const Step& step, float* embedding, bool accumulate, int thread, int threads, double* seconds) {
    const auto start = seconds != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    const Buffer& in = program_.buffers[step.input];
    const View source = view(step.input, 0);
    const auto part = [&, blocks = vector_blocks(step)](int t) { return blocks * t / threads; };
    if (step.kind == StepKind::kGlobalDepthwise) {
      const GlobalDepthwiseOf<State> args = {.pixels = in.height * in.width,
                                             .input = source.data,
                                             .block_stride = source.block_stride,
                                             .slope = weights_ + step.slope,
                                             .weights = weights_ + step.weights,
                                             .bias = weights_ + step.bias,
                                             .output = view(step.output, 0).data,
                                             .cap = step.cap < 0 ? nullptr : weights_ + step.cap};
      set_.global_depthwise(args, part(thread), part(thread + 1));
    } else {
      const LinearOf<State> args = {.inputs = in.blocks * kBlock,
                                    .input = source.data,
                                    .weights = weights_ + step.weights,
                                    .bias = weights_ + step.bias,
                                    .outputs = program_.results,
                                    .output = embedding,
                                    .accumulate = accumulate};
      set_.linear(args, part(thread), part(thread + 1));
    }
    add_time(step, start, seconds);
  }

  void add_time(const Step& step, std::chrono::steady_clock::time_point start, double* seconds) const {
    if (seconds == nullptr) return;
    seconds[&step - program_.steps.data()] +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  const Program& program_;
  const float* weights_;
  const StepKernels<State>& set_;
  State* arena_;
  State* band_;
  float* scratch_;
  const RollingGroup* rolling_ = nullptr;  // while one is at work
};

Image image_of(const Batch& batch, const Program& program, std::int64_t index, bool mirror) {
  const std::int64_t pixels = std::int64_t{3} * program.height * program.width;
  return {batch.planar == nullptr ? nullptr : batch.planar + index * pixels,
          batch.interleaved == nullptr ? nullptr : batch.interleaved + index * pixels, mirror};
}

// With its mirror image, if `flip`.
template <typename State>
void whole_image(ImageRun<State>& run, const Batch& batch, const Program& program, std::int64_t index, bool flip,
                 float* results, double* seconds) {
  float* const result = results + index * program.results;
  run.run(image_of(batch, program, index, false), result, false, seconds);
  if (flip) run.run(image_of(batch, program, index, true), result, true, seconds);
}

template <typename State>
void run_in(float* memory, const Program& program, const float* weights, const StepKernels<State>& set,
            const Batch& batch, bool flip, float* results) {
  ImageRun<State> run(program, weights, set, memory, memory + program.arena_words());
  for (std::int64_t i = 0; i < batch.size; ++i) whole_image(run, batch, program, i, flip, results, nullptr);
}

template <typename State>
class Call {
 public:
  Call(const StepKernels<State>& set, std::span<const float> weights, const Batch& batch, bool flip, float* result,
       Workspace& workspace)
      : set_(set), weights_(weights.data()), batch_(batch), flip_(flip), result_(result), workspace_(workspace) {}

  void alone(double* seconds) const {
    ImageRun<State> run = run_in(workspace_.lanes[0].arena, 0);
    for (std::int64_t i = 0; i < batch_.size; ++i) whole(i, run, seconds);
  }

  // `shared` images at the end of the batch are computed by all threads together.
  void together(int threads, std::int64_t shared) {
    threads_ = threads;
    shared_ = shared;
    const Task alone = [](void* context, Member&) noexcept { static_cast<const Call*>(context)->alone(nullptr); };
    // A helper that comes late may still take some of many images.
    run_together(
        threads, [](void* context, Member& member) noexcept { static_cast<Call*>(context)->take_part(member); }, this,
        shared == batch_.size ? alone : nullptr);
  }

 private:
  ImageRun<State> run_in(Floats& arena, int thread) const {
    return {workspace_.program, weights_, set_, arena.reserve(0), workspace_.lanes[thread].scratch.reserve(0)};
  }

  Image image(std::int64_t index, bool mirror) const { return image_of(batch_, workspace_.program, index, mirror); }

  float* result(std::int64_t index) const { return result_ + index * workspace_.program.results; }

  void whole(std::int64_t index, ImageRun<State>& run, double* seconds) const {
    whole_image(run, batch_, workspace_.program, index, flip_, result_, seconds);
  }

  void take_part(Member& member) {
    const std::int64_t whole_images = batch_.size - shared_;
    if (whole_images > 0) {
      ImageRun<State> run = run_in(workspace_.lanes[member.index].arena, member.index);
      for (std::int64_t i = next_.fetch_add(1); i < whole_images; i = next_.fetch_add(1)) {
        whole(i, run, nullptr);
      }
    }
    if (shared_ == 0) return;
    ImageRun<State> run = run_in(whole_images > 0 ? workspace_.shared_arena : workspace_.lanes[0].arena, member.index);
    Together with = {phases_, 0, member, threads_};
    for (std::int64_t i = whole_images; i < batch_.size; ++i) {
      run.run(image(i, false), result(i), false, with);
      if (flip_) run.run(image(i, true), result(i), true, with);
    }
  }

  const StepKernels<State>& set_;
  const float* const weights_;
  const Batch& batch_;
  const bool flip_;
  float* const result_;
  Workspace& workspace_;
  int threads_ = 1;
  std::int64_t shared_ = 0;
  std::atomic<std::int64_t> next_{0};
  Phases phases_;
};

// A thread pays that has two rows of the tallest step to itself, or an image.
int paying_threads(const Program& program, std::int64_t images) {
  int rows = 1;
  for (const Group& group : program.groups) rows = std::max(rows, group.height);
  return static_cast<int>(std::max<std::int64_t>(images, std::max(rows / 2, 1)));
}

template <typename State>
void run(const StepKernels<State>& set, std::span<const float> weights, const Batch& batch, const RunOptions& options,
         float* result, double* seconds, Workspace& workspace) {
  const Program& program = workspace.program;
  const auto fit = static_cast<int>(std::min<std::size_t>(
      kMaxCallBytes / std::max<std::size_t>(program.lane_bytes(), 1), std::numeric_limits<int>::max()));
  const int threads = std::clamp(std::min(options.threads, paying_threads(program, batch.size)), 1, std::max(fit, 1));
  // Images that are left over are shared, in memory of their own: some thread may still be at an image of its own.
  std::int64_t shared = threads > 1 ? batch.size % threads : 0;
  if (batch.size > threads && threads == fit) shared = 0;
  const bool whole = shared < batch.size;
  workspace.prepare(threads, whole ? threads : 1, whole && shared > 0);
  Call<State> call(set, weights, batch, options.flip, result, workspace);
  if (threads == 1) {
    call.alone(seconds);
    return;
  }
  call.together(threads, shared);
}

}  // namespace

PreparedProgram::PreparedProgram(std::span<const std::int32_t> words, std::span<const float> weights)
    : weights_(weights) {
  decode(words, weights.size(), workspace_->program);
}

PreparedProgram::PreparedProgram(std::span<const std::int32_t> words, std::span<const float> weights, int height,
                                 int width)
    : weights_(weights) {
  std::pmr::vector<std::int32_t>& resized = workspace_->resized;
  // A program in use is kept with what was made of it.
  std::pmr::vector<std::int32_t>& original = workspace_->original;
  if (resized.empty() || resized[kHeightWord] != height || resized[kWidthWord] != width ||
      !std::equal(original.begin(), original.end(), words.begin(), words.end())) {
    original.clear();
    resize(words, weights.size(), height, width, resized);
    original.assign(words.begin(), words.end());
  }
  decode(resized, weights.size(), workspace_->program);
}

ProgramInfo PreparedProgram::info() const {
  const Program& program = workspace_->program;
  return {program.height, program.width, program.results};
}

void PreparedProgram::run(const Batch& batch, const RunOptions& options, float* result, double* seconds) const {
  const Program& program = workspace_->program;
  if (options.flip && program.steps.back().kind == StepKind::kMap) {
    throw std::invalid_argument("maps have no sum with those of the mirror image");
  }
  if (program.half) {
    pnf::run<Bf16>(bf16_kernels(), weights_, batch, options, result, seconds, *workspace_);
  } else {
    pnf::run<float>(kernels(), weights_, batch, options, result, seconds, *workspace_);
  }
}

void PreparedProgram::execute(const Batch& batch, const RunOptions& options, float* result) const {
  run(batch, options, result, nullptr);
}

std::vector<double> PreparedProgram::profile(const Batch& batch) const {
  std::vector<double> seconds(workspace_->program.steps.size(), 0.0);
  std::vector<float> result(batch.size * workspace_->program.results);
  run(batch, {}, result.data(), seconds.data());
  return seconds;
}

void execute_in(float* memory, const Program& program, std::span<const float> weights, const ChosenKernels& kernels,
                const Batch& batch, bool flip, float* result) {
  if (program.half) {
    run_in<Bf16>(memory, program, weights.data(), *kernels.bf16, batch, flip, result);
  } else {
    run_in<float>(memory, program, weights.data(), *kernels.fp32, batch, flip, result);
  }
}

void execute(std::span<const std::int32_t> words, std::span<const float> weights, const Batch& batch,
             const RunOptions& options, float* result) {
  PreparedProgram(words, weights).execute(batch, options, result);
}

}  // namespace pnf
