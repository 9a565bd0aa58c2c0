// What the gradients of a sum's operations are computed from.
#pragma once
#include <cstddef>
#include <vector>

#include "plan/cell.h"
#include "plan/cell/packed.h"

namespace pnf::cell_training {

// What an operation's gradient is computed from.
enum class GradientSource {
  kProducts,   // its products, computed again
  kSum,        // the sum, of which it is the only part
  kRemainder,  // what the other operations and the residuals leave of the sum
};

// About how large the values of each channel of each sum are, by its normalisations; infinite where that is unknown.
std::vector<std::vector<double>> expected_sizes(const Cell& cell);

// Where the gradients of a sum's operations come from. An operation's result is as good as its products unless it is
// small beside the sum, whose rounding it then shares: kLargest takes five of 24 bits, in half precision four of eight.
// What this saves is computing the most expensive operation of a sum again (the idea is that of in-place activated
// normalisation, arXiv 1712.02616).
template <typename State>
std::vector<GradientSource> choose_sources(const Cell& cell, int sum, const std::vector<Packed<State>>& packed,
                                           const std::vector<int>& residuals, const std::vector<double>& size);

// The operations of a sum that are taken through the batch together, each once: they read the sum's gradient once. With a
// remainder, which needs the products of all others, they are all in one group and it is the last.
std::vector<std::vector<std::size_t>> groups_of(const std::vector<GradientSource>& sources);

}  // namespace pnf::cell_training
