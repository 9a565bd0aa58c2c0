#include "plan/executor.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "kernels/dispatch.h"
#include "plan/resize.h"
#include "plan/rolling.h"
#include "plan/thread_pool.h"

namespace pnf {
namespace {

float as_float(float x) { return x; }
float as_float(Bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16); }

// One image on its way through the program, as one of `threads` threads sees it.
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

  void run(const Image& image, float* result, bool accumulate, int thread, int threads, Barrier* barrier,
           double* seconds) {
    for (const Group& group : program_.groups) {
      const StepKind kind = program_.steps[group.first_step].kind;
      if (kind == StepKind::kGlobalDepthwise || kind == StepKind::kLinear) {
        vector_step(program_.steps[group.first_step], result, accumulate, thread, threads, seconds);
      } else if (kind == StepKind::kMap) {
        map_step(program_.steps[group.first_step], result, thread, threads, seconds);
      } else if (!group.rolling) {
        const int begin = group.height * thread / threads;
        const int end = group.height * (thread + 1) / threads;
        for (int y = begin; y < end; y += group.rows) {
          for (int i = 0; i < group.steps; ++i) {
            row_step(group.first_step + i, image, y, std::min(y + group.rows, end), seconds);
          }
        }
      } else if (barrier == nullptr) {
        roll(group, image, seconds);
      } else {
        // Rows of other threads are read beyond every border.
        for (int i = 0; i < group.steps; ++i) {
          if (i > 0) barrier->wait();
          const int height = height_of(group.first_step + i);
          row_step(group.first_step + i, image, height * thread / threads, height * (thread + 1) / threads, seconds);
        }
      }
      if (barrier != nullptr) barrier->wait();
    }
  }

 private:
  int height_of(int step) const { return program_.buffers[program_.steps[step].output].height; }

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
      for (int t = 0; t < step.terms; ++t) node.term[t] = term(program_.terms[step.first_term + t], begin);
      set_.node_rows(node, begin, end, scratch_);
    }
    add_time(step, start, seconds);
  }

  TermOf<State> term(const ProgramTerm& t, int band_begin) const {
    const Buffer& in = program_.buffers[t.input];
    const View source = view(t.input, band_begin);
    const auto at = [this](int offset) { return offset < 0 ? nullptr : weights_ + offset; };
    return {t.kind,          t.kernel,        t.stride,     t.shift,     in.height,           in.width,
            in.blocks,       t.first_out,     t.out_blocks, source.data, source.block_stride, at(t.slope),
            at(t.depthwise), at(t.pointwise), at(t.scale),  at(t.cap),   at(t.middle)};
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
    const auto share = [&](int blocks, int t) { return blocks * t / threads; };
    if (step.kind == StepKind::kGlobalDepthwise) {
      const GlobalDepthwiseOf<State> args = {in.height * in.width,      source.data,
                                             source.block_stride,       weights_ + step.slope,
                                             weights_ + step.weights,   weights_ + step.bias,
                                             view(step.output, 0).data, step.cap < 0 ? nullptr : weights_ + step.cap};
      set_.global_depthwise(args, share(in.blocks, thread), share(in.blocks, thread + 1));
    } else {
      const LinearOf<State> args = {
          in.blocks * kBlock, source.data, weights_ + step.weights, weights_ + step.bias, program_.results,
          embedding,          accumulate};
      const int blocks = (program_.results + kBlock - 1) / kBlock;
      set_.linear(args, share(blocks, thread), share(blocks, thread + 1));
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

template <typename State>
struct Call {
  const Program& program;
  const float* weights;
  const StepKernels<State>& set;
  const Batch& batch;
  bool flip;
  float* result;
  std::vector<Lane>& lanes;
  Barrier& barrier;
  double* seconds;

  void image(std::int64_t index, float* arena, float* scratch, int thread, int threads) const {
    Barrier* const sync = threads > 1 ? &barrier : nullptr;
    ImageRun<State> run(program, weights, set, arena, scratch);
    const std::int64_t pixels = std::int64_t{3} * program.height * program.width;
    for (int mirror = 0; mirror < (flip ? 2 : 1); ++mirror) {
      const Image view = {batch.planar == nullptr ? nullptr : batch.planar + index * pixels,
                          batch.interleaved == nullptr ? nullptr : batch.interleaved + index * pixels, mirror == 1};
      run.run(view, result + index * program.results, mirror == 1, thread, threads, sync, seconds);
    }
  }

  void run(int thread, int threads) const {
    float* const own_arena = lanes[thread].arena.reserve(0);
    float* const scratch = lanes[thread].scratch.reserve(0);
    const std::int64_t whole = batch.size / threads * threads;
    for (std::int64_t i = thread; i < whole; i += threads) image(i, own_arena, scratch, 0, 1);
    if (whole == batch.size) return;
    // The images that are left share the first arena, which its thread may still be using.
    if (threads > 1) barrier.wait();
    for (std::int64_t i = whole; i < batch.size; ++i) {
      image(i, lanes[0].arena.reserve(0), scratch, thread, threads);
    }
  }
};

template <typename State>
void run(const StepKernels<State>& set, std::span<const float> weights, const Batch& batch, int threads, bool flip,
         float* result, double* seconds, Workspace& workspace) {
  Barrier barrier(threads);
  Call<State> call = {workspace.program, weights.data(), set, batch, flip, result, workspace.lanes, barrier, seconds};
  run_parallel(
      threads,
      [](void* context, int thread, int parties) { static_cast<const Call<State>*>(context)->run(thread, parties); },
      &call);
}

}  // namespace

PreparedProgram::PreparedProgram(std::span<const std::int32_t> words, std::span<const float> weights)
    : weights_(weights) {
  decode(words, weights.size(), workspace_->program);
}

PreparedProgram::PreparedProgram(std::span<const std::int32_t> words, std::span<const float> weights, int height,
                                 int width)
    : weights_(weights) {
  std::vector<std::int32_t>& resized = workspace_->resized;
  // A program in use is kept with what was made of it.
  std::vector<std::int32_t>& original = workspace_->original;
  if (resized.empty() || resized[kHeightWord] != height || resized[kWidthWord] != width ||
      !std::ranges::equal(original, words)) {
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
  const auto fit = static_cast<int>(std::min<std::size_t>(
      kMaxCallBytes / std::max<std::size_t>(program.lane_bytes(), 1), std::numeric_limits<int>::max()));
  const int threads = std::clamp(options.threads, 1, fit);
  // With fewer images than threads, all of them work in the first arena.
  workspace_->prepare(threads, batch.size < threads ? 1 : threads);
  if (program.half) {
    pnf::run<Bf16>(bf16_kernels(), weights_, batch, threads, options.flip, result, seconds, *workspace_);
  } else {
    pnf::run<float>(kernels(), weights_, batch, threads, options.flip, result, seconds, *workspace_);
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

void execute(std::span<const std::int32_t> words, std::span<const float> weights, const Batch& batch,
             const RunOptions& options, float* result) {
  PreparedProgram(words, weights).execute(batch, options, result);
}

}  // namespace pnf
