#include "kernels/stem/stem.h"

namespace pnf {

std::size_t stem_scratch(const Stem& stem) { return std::size_t{9} * (stem.width + 2); }

}  // namespace pnf
