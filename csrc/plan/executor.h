// Runs a program over a batch of images.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

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

struct ProgramInfo {
  int height, width, embedding;
};

// What a caller must know before it can run the program. Throws std::invalid_argument when the words do not start
// as a program does; the rest is checked by execute().
ProgramInfo program_info(std::span<const std::int32_t> words);

// embedding: [size][embedding]. Whole images are spread over the threads; those left over are split by rows. The
// result does not depend on the number of threads. Reentrant. Throws std::invalid_argument for a damaged program,
// std::runtime_error when the forced instruction set is unavailable, std::bad_alloc.
void execute(std::span<const std::int32_t> words, std::span<const float> weights, const Batch& batch,
             const RunOptions& options, float* embedding);

// Runs one thread over the batch and returns the seconds spent in each step of the program, summed over the images.
std::vector<double> profile(std::span<const std::int32_t> words, std::span<const float> weights, const Batch& batch);

}  // namespace pnf
