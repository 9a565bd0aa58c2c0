// The decoded form of a program, and its encoding as int32 words.
//
//   header  magic, version, words, image height, image width, bgr, floats of a result, buffers, items, arena floats,
//           band floats, weights floats, unit of the image's sides
//   buffer  in_band, offset, blocks, height, width, rows
//   item    kind and its operands, as the structures below list them
//
// The result is an embedding, which the last step computes, or the maps that the last steps copy, one behind another. Of a
// program whose unit is not 0, there is one for every image whose sides are multiples of the unit (plan/resize.h).
//
// Steps read what steps before them wrote, and nothing that a call computes comes from memory that it did not write. Of
// what its own group writes, a step reads the rows at hand only, or the group is rolling: its buffers lie whole in the
// arena, each band of its last step takes its other steps as far as that band needs, and their rows are still in the cache
// when they are read (plan/rolling.h).
//
// The version says what states and convolutions' weights are (kernels/layout.h): 3 floats, 4 Bf16. Sizes and offsets of
// buffers count elements; offsets into the weights, words. A buffer lies in the arena with all its rows, or, when only the steps of
// one group touch it, in a thread's own band with the `rows` rows that the group works on at a time.
#pragma once
#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

#include "kernels/node/node.h"

namespace pnf {

inline constexpr std::int32_t kProgramMagic = 0x31464e50;  // "PNF1"
inline constexpr std::int32_t kFloatProgram = 3, kBf16Program = 4;

// Where words are in the header, and in a buffer.
inline constexpr int kMagicWord = 0, kVersionWord = 1, kLengthWord = 2, kHeightWord = 3, kWidthWord = 4, kBgrWord = 5,
                     kResultsWord = 6, kBuffersWord = 7, kItemsWord = 8, kArenaWord = 9, kBandWord = 10,
                     kWeightsWord = 11, kUnitWord = 12, kHeaderWords = 13;
inline constexpr int kInBandWord = 0, kOffsetWord = 1, kBlocksWord = 2, kBufferHeightWord = 3, kBufferWidthWord = 4,
                     kRowsWord = 5, kBufferWords = 6;

inline constexpr int kMaxSide = 4096, kMaxFloats = 1 << 30;

// Working memory of one call: arenas, bands and scratch of all its threads. A program that needs more on one thread is
// damaged, and a call takes no more threads than fit. (PocketNet-M of the paper takes some 4 MiB a thread.)
inline constexpr std::size_t kMaxCallBytes = std::size_t{512} << 20;

struct Buffer {
  bool in_band;
  int offset;
  int blocks, height, width;
  int rows;
};

enum class StepKind : std::int32_t { kGroup = 0, kStem = 1, kNode = 2, kGlobalDepthwise = 3, kLinear = 4, kMap = 5 };

struct ProgramTerm {
  TermKind kind;
  int input;  // buffer
  int kernel, stride, shift, first_out, out_blocks;
  int slope, depthwise, pointwise, scale, cap, middle;  // offsets; unused ones are -1
};

// Of a term's output, from its input's.
inline int output_side(TermKind kind, int stride, int side) {
  return kind == TermKind::kUpsampled ? 2 * side : (side + stride - 1) / stride;
}

struct Step {
  StepKind kind;
  int input, output;  // buffers
  int weights, bias;
  int slope, cap;              // kGlobalDepthwise
  int norm;                    // kStem: mean[3], scale[3]
  int channels, first_result;  // kMap: [height][width][channels] floats from there on in the result
  int first_term, terms;
  bool passing = false;  // whether its output is read in its own rolling group only
};

// Consecutive steps over the same output height, taken `rows` rows at a time; a lone step is a group of its own. Of a
// rolling group, these are its last step's.
struct Group {
  int first_step, steps;
  int rows;
  int height;
  bool rolling = false;
};
inline constexpr int kMaxRollingSteps = 64;

// The rows of a term's input, from the first one on, that the first `rows` rows of its output are computed from.
int rows_needed(const ProgramTerm& term, int input_height, int rows);
// Those that only the first `rows` rows of its output are computed from.
int rows_passed(const ProgramTerm& term, int rows);

struct Program {
  explicit Program(std::pmr::memory_resource* memory = std::pmr::get_default_resource())
      : buffers(memory), steps(memory), terms(memory), groups(memory), written(memory), group_words(memory) {}

  int height, width;
  bool bgr;
  bool half;  // states of Bf16
  int results;
  int unit;
  int arena_floats, band_floats;
  std::pmr::vector<Buffer> buffers;
  std::pmr::vector<Step> steps;
  std::pmr::vector<ProgramTerm> terms;
  std::pmr::vector<Group> groups;
  std::size_t scratch_floats;
  std::pmr::vector<int> written;  // the decoder's own: the group that wrote each buffer last, from 1 on; 0: none yet
  std::pmr::vector<std::size_t>
      group_words;  // where the words of each group are, or of the step that is one of its own

  std::size_t state_bytes() const { return half ? sizeof(Bf16) : sizeof(float); }

  // Of one thread, in floats: its arena and its band (whole cache lines), and in bytes with what kernels need besides.
  // In 64 bits everywhere, as a program may ask for more than a size_t of 32 bits holds.
  std::uint64_t arena_words() const { return words_of(arena_floats); }
  std::uint64_t band_words() const { return words_of(band_floats); }
  std::uint64_t lane_bytes() const { return (arena_words() + band_words() + scratch_floats) * sizeof(float); }

 private:
  std::uint64_t words_of(std::uint64_t elements) const {
    const std::uint64_t words = (elements * state_bytes() + sizeof(float) - 1) / sizeof(float);
    return (words + kBlock - 1) / kBlock * kBlock;
  }
};

struct ProgramInfo {
  int height, width, results;
};

// What the first words say. Throws std::invalid_argument as decode() does where they are wrong.
ProgramInfo program_info(std::span<const std::int32_t> words);

// Replaces `program`, reusing its memory. Throws std::invalid_argument when the words are no valid program, point outside
// `weights_floats` weights, read what was not written, or need more than kMaxCallBytes.
void decode(std::span<const std::int32_t> words, std::size_t weights_floats, Program& program);

}  // namespace pnf
