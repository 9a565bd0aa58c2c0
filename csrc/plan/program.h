// The decoded form of a program, and its encoding as int32 words.
//
//   header  magic, version, words, image height, image width, bgr, embedding, buffers, items, arena floats,
//           band floats, weights floats
//   buffer  in_band, offset, blocks, height, width, rows
//   item    kind and its operands, as the structures below list them
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

  std::size_t state_bytes() const { return half ? sizeof(Bf16) : sizeof(float); }
};

// Replaces `program`, reusing its memory. Throws std::invalid_argument when the words are no valid program or point
// outside `weights_floats` weights.
void decode(std::span<const std::int32_t> words, std::size_t weights_floats, Program& program);

}  // namespace pnf
