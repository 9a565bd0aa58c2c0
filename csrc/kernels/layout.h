// The memory layout shared by every kernel and by the plan.
//
// A state is stored in blocks of 16 channels: [channels / 16][height][width][16] floats, the channel count
// rounded up and the surplus channels zero. Sixteen is one AVX-512 register, two of AVX2 and four of NEON, so
// the same packed weights serve every instruction set.
#pragma once

namespace pnf {

inline constexpr int kBlock = 16;
inline constexpr int kMaxKernel = 7;  // the widest depthwise window

}  // namespace pnf
