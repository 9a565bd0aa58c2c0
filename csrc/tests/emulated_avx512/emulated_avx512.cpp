// What the kernels of this folder's vocabulary stand on, in place of kernels/cpu_features.cpp.
#include "kernels/cpu_features.h"
#include "kernels/simd/amx_bf16.h"

namespace pnf {

namespace amx_bf16 {

thread_local TileFile emulated_tiles = {{.palette = 0}, {}};

}  // namespace amx_bf16

// The sets that are emulated, and the scalar one; the same tests run the rest elsewhere.
const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    CpuFeatures emulated;
    emulated.avx512 = emulated.avx512_bf16 = emulated.amx_bf16 = true;
    return emulated;
  }();
  return features;
}

namespace test {

// As csrc/tests/support.h declares it.
bool tiles_in_use() { return amx_bf16::emulated_tiles.shapes.palette != 0; }

}  // namespace test

}  // namespace pnf
