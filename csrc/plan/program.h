// The decoded form of a program, and its encoding as int32 words.
//
//   header  magic, version, words, image height, image width, bgr, embedding, buffers, items, arena floats,
//           band floats, weights floats
//   buffer  in_band, offset, blocks, height, width, rows
//   item    kind and its operands, as the structures below list them
//
// Steps read what steps before them wrote, and a step of a group reads of what the group writes the rows at hand only: so
// nothing that a call computes comes from memory that it did not write.
//
// The version says what states and convolutions' weights are (kernels/layout.h): 1 floats, 2 Bf16. Sizes and offsets of
// buffers count elements; offsets into the weights, words. A buffer lies in the arena with all its rows, or, when only the steps of
// one group touch it, in a thread's own band with the `rows` rows that the group works on at a time.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/node/node.h"

namespace pnf {

inline constexpr std::int32_t kProgramMagic = 0x31464e50;  // "PNF1"
inline constexpr std::int32_t kFloatProgram = 1, kBf16Program = 2;

// Working memory of one call: arenas, bands and scratch of all its threads. A program that needs more on one thread is
// damaged, and a call takes no more threads than fit. (PocketNet-M of the paper takes some 4 MiB a thread.)
inline constexpr std::size_t kMaxCallBytes = std::size_t{512} << 20;

struct Buffer {
  bool in_band;
  int offset;
  int blocks, height, width;
  int rows;
};

enum class StepKind : std::int32_t { kGroup = 0, kStem = 1, kNode = 2, kGlobalDepthwise = 3, kLinear = 4 };

struct ProgramTerm {
  TermKind kind;
  int input;  // buffer
  int kernel, stride, shift, first_out, out_blocks;
  int slope, depthwise, pointwise, scale;  // offsets; unused ones are -1
};

struct Step {
  StepKind kind;
  int input, output;  // buffers
  int weights, bias;
  int slope;  // kGlobalDepthwise
  int norm;   // kStem: mean[3], scale[3]
  int first_term, terms;
};

// Consecutive steps over the same output height, taken `rows` rows at a time; a lone step is a group of its own.
struct Group {
  int first_step, steps;
  int rows;
  int height;
};

struct Program {
  int height, width;
  bool bgr;
  bool half;  // states of Bf16
  int embedding;
  int arena_floats, band_floats;
  std::vector<Buffer> buffers;
  std::vector<Step> steps;
  std::vector<ProgramTerm> terms;
  std::vector<Group> groups;
  std::size_t scratch_floats;
  std::vector<int> written;  // the decoder's own: the group that wrote each buffer last, from 1 on; 0: none yet

  std::size_t state_bytes() const { return half ? sizeof(Bf16) : sizeof(float); }

  // Of one thread, in floats: its arena, its band (whole cache lines), and in bytes with what kernels need besides.
  std::size_t arena_words() const { return words_of(arena_floats); }
  std::size_t band_words() const { return (words_of(band_floats) + kBlock - 1) / kBlock * kBlock; }
  std::size_t lane_bytes() const { return (arena_words() + band_words() + scratch_floats) * sizeof(float); }

 private:
  std::size_t words_of(std::size_t elements) const {
    return (elements * state_bytes() + sizeof(float) - 1) / sizeof(float);
  }
};

struct ProgramInfo {
  int height, width, embedding;
};

// What the first words say. Throws std::invalid_argument as decode() does where they are wrong.
ProgramInfo program_info(std::span<const std::int32_t> words);

// Replaces `program`, reusing its memory. Throws std::invalid_argument when the words are no valid program, point outside
// `weights_floats` weights, read what was not written, or need more than kMaxCallBytes.
void decode(std::span<const std::int32_t> words, std::size_t weights_floats, Program& program);

}  // namespace pnf
