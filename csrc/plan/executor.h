// Runs a program over a batch of images.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/program.h"
#include "plan/workspace.h"

namespace pnf {

struct Batch {
  std::int64_t size;
  const float* planar;              // [size][3][height][width], normalised RGB; or null
  const std::uint8_t* interleaved;  // [size][height][width][3]; or null
};

struct RunOptions {
  int threads = 1;    // at least 1
  bool flip = false;  // the sum of the embeddings of the image and of its mirror image
};

// A program that was decoded and checked, and the memory of a call, which takes no more than kMaxCallBytes. The words need
// not outlive the constructor; the weights must.
class PreparedProgram {
 public:
  // Throws std::invalid_argument for a damaged program; allocates nothing that grows with what the program asks for.
  PreparedProgram(std::span<const std::int32_t> words, std::span<const float> weights);
  // The same for images of another size; see resize().
  PreparedProgram(std::span<const std::int32_t> words, std::span<const float> weights, int height, int width);

  ProgramInfo info() const;

  // result: [size][results]. Threads take whole images; those left over they share by rows. The result does not depend
  // on the number of threads. Throws std::runtime_error when the forced instruction set is
  // unavailable, std::invalid_argument when maps are to be summed with the mirror image's, std::bad_alloc.
  void execute(const Batch& batch, const RunOptions& options, float* result) const;

  // Runs one thread over the batch and returns the seconds spent in each step, summed over the images.
  std::vector<double> profile(const Batch& batch) const;

 private:
  void run(const Batch& batch, const RunOptions& options, float* result, double* seconds) const;

  WorkspaceLease workspace_;
  std::span<const float> weights_;
};

// On the calling thread alone, in program.lane_bytes() of the caller's memory from a cache line on; takes no other. What is
// computed is what execute() computes.
void execute_in(float* memory, const Program& program, std::span<const float> weights, const ChosenKernels& kernels,
                const Batch& batch, bool flip, float* result);

// All of it at once; reentrant.
void execute(std::span<const std::int32_t> words, std::span<const float> weights, const Batch& batch,
             const RunOptions& options, float* result);

}  // namespace pnf
