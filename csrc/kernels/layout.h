// The memory layout shared by every kernel and by the plan.
//
// A state is stored in blocks of 16 channels: [channels / 16][height][width][16] floats, the channel count
// rounded up and the surplus channels zero. Sixteen is one AVX-512 register, two of AVX2 and four of NEON, so
// the same packed weights serve every instruction set.
#pragma once
#include <cstdint>

namespace pnf {

// Half precision states are the upper halves of floats. Where a kernel's weights are of half precision, two that a sum
// takes one after another share a word, the earlier one in its lower half.
enum class Bf16 : std::uint16_t {};

inline constexpr int kBlock = 16;
inline constexpr int kMaxKernel = 7;  // the widest depthwise window

}  // namespace pnf
