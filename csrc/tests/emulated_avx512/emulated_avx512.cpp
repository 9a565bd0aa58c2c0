// What the kernels of this folder's vocabulary stand on, in place of kernels/cpu_features.cpp.
#include "kernels/cpu_features.h"
#include "kernels/simd/amx_bf16.h"

namespace pnf {

namespace amx_bf16 {

thread_local TileFile emulated_tiles = {{.palette = 0}, {}};

}  // namespace amx_bf16

// The sets that are emulated, and those of the CPU that are not.
const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    CpuFeatures found;
    found.avx2_fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    found.avx512 = found.avx512_bf16 = found.amx_bf16 = true;
    return found;
  }();
  return features;
}

namespace test {

// As csrc/tests/support.h declares it.
bool tiles_in_use() { return amx_bf16::emulated_tiles.shapes.palette != 0; }

}  // namespace test

}  // namespace pnf
