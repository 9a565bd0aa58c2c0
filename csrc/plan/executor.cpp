#include "plan/executor.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>

#include "kernels/dispatch.h"
#include "plan/thread_pool.h"

namespace pnf {
namespace {

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

  void run(const Image& image, float* embedding, bool accumulate, int thread, int threads, Barrier* barrier,
           double* seconds) {
    for (const Group& group : program_.groups) {
      if (group.steps == 1 && program_.steps[group.first_step].kind != StepKind::kNode &&
          program_.steps[group.first_step].kind != StepKind::kStem) {
        vector_step(program_.steps[group.first_step], embedding, accumulate, thread, threads, seconds);
      } else {
        const int begin = group.height * thread / threads;
        const int end = group.height * (thread + 1) / threads;
        for (int y = begin; y < end; y += group.rows) {
          for (int i = 0; i < group.steps; ++i) {
            row_step(group.first_step + i, image, y, std::min(y + group.rows, end), seconds);
          }
        }
      }
      if (barrier != nullptr) barrier->wait();
    }
  }

 private:
  struct View {
    State* data;  // row y of block b at data + b * block_stride + y * width * 16
    std::ptrdiff_t block_stride;
  };

  // A band starts at row y of the image, so its rows are addressed from y rows before it.
  View view(const Buffer& b, int y) const {
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(b.width) * kBlock;
    if (b.in_band) return {band_ + b.offset - y * row, b.rows * row};
    return {arena_ + b.offset, b.rows * row};
  }

  void row_step(int index, const Image& image, int begin, int end, double* seconds) {
    const Step& step = program_.steps[index];
    const auto start = seconds != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    const Buffer& out = program_.buffers[step.output];
    const View target = view(out, begin);
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
    if (seconds != nullptr) {
      seconds[index] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  }

  TermOf<State> term(const ProgramTerm& t, int band_begin) const {
    const Buffer& in = program_.buffers[t.input];
    const View source = view(in, band_begin);
    const auto at = [this](int offset) { return offset < 0 ? nullptr : weights_ + offset; };
    return {t.kind,          t.kernel,        t.stride,     t.shift,     in.height,           in.width,
            in.blocks,       t.first_out,     t.out_blocks, source.data, source.block_stride, at(t.slope),
            at(t.depthwise), at(t.pointwise), at(t.scale)};
  }

  void vector_step(const Step& step, float* embedding, bool accumulate, int thread, int threads, double* seconds) {
    const auto start = seconds != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    const Buffer& in = program_.buffers[step.input];
    const View source = view(in, 0);
    const auto share = [&](int blocks, int t) { return blocks * t / threads; };
    if (step.kind == StepKind::kGlobalDepthwise) {
      const GlobalDepthwiseOf<State> args = {in.height * in.width,
                                             source.data,
                                             source.block_stride,
                                             weights_ + step.slope,
                                             weights_ + step.weights,
                                             weights_ + step.bias,
                                             view(program_.buffers[step.output], 0).data};
      set_.global_depthwise(args, share(in.blocks, thread), share(in.blocks, thread + 1));
    } else {
      const LinearOf<State> args = {
          in.blocks * kBlock, source.data, weights_ + step.weights, weights_ + step.bias, program_.embedding,
          embedding,          accumulate};
      const int blocks = (program_.embedding + kBlock - 1) / kBlock;
      set_.linear(args, share(blocks, thread), share(blocks, thread + 1));
    }
    if (seconds != nullptr) {
      seconds[&step - program_.steps.data()] +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  }

  const Program& program_;
  const float* weights_;
  const StepKernels<State>& set_;
  State* arena_;
  State* band_;
  float* scratch_;
};

template <typename State>
struct Call {
  const Program& program;
  const float* weights;
  const StepKernels<State>& set;
  const Batch& batch;
  bool flip;
  float* embedding;
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
      run.run(view, embedding + index * program.embedding, mirror == 1, thread, threads, sync, seconds);
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
         float* embedding, double* seconds, Workspace& workspace) {
  Barrier barrier(threads);
  Call<State> call = {workspace.program, weights.data(),  set,     batch,  flip,
                      embedding,         workspace.lanes, barrier, seconds};
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

ProgramInfo PreparedProgram::info() const {
  const Program& program = workspace_->program;
  return {program.height, program.width, program.embedding};
}

void PreparedProgram::run(const Batch& batch, const RunOptions& options, float* embedding, double* seconds) const {
  const Program& program = workspace_->program;
  const auto fit = static_cast<int>(std::min<std::size_t>(
      kMaxCallBytes / std::max<std::size_t>(program.lane_bytes(), 1), std::numeric_limits<int>::max()));
  const int threads = std::clamp(options.threads, 1, fit);
  // With fewer images than threads, all of them work in the first arena.
  workspace_->prepare(threads, batch.size < threads ? 1 : threads);
  if (program.half) {
    pnf::run<Bf16>(bf16_kernels(), weights_, batch, threads, options.flip, embedding, seconds, *workspace_);
  } else {
    pnf::run<float>(kernels(), weights_, batch, threads, options.flip, embedding, seconds, *workspace_);
  }
}

void PreparedProgram::execute(const Batch& batch, const RunOptions& options, float* embedding) const {
  run(batch, options, embedding, nullptr);
}

std::vector<double> PreparedProgram::profile(const Batch& batch) const {
  std::vector<double> seconds(workspace_->program.steps.size(), 0.0);
  std::vector<float> embedding(batch.size * workspace_->program.embedding);
  run(batch, {}, embedding.data(), seconds.data());
  return seconds;
}

void execute(std::span<const std::int32_t> words, std::span<const float> weights, const Batch& batch,
             const RunOptions& options, float* embedding) {
  PreparedProgram(words, weights).execute(batch, options, embedding);
}

}  // namespace pnf
