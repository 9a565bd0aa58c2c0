#include "kernels/margin_cross_entropy/margin_cross_entropy.h"

#include "kernels/margin_cross_entropy/scratch.h"

namespace pnf {

int margin_padded_dims(int dims) { return margin_padded(dims); }

int margin_block(int dims) { return margin_block_of(dims); }

std::size_t margin_scratch(int samples, int dims, bool pairs) { return margin_scratch_of(samples, dims, pairs).floats; }

}  // namespace pnf
