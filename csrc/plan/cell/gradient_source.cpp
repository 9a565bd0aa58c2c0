#include "plan/cell/gradient_source.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"

namespace pnf::cell_training {

namespace {

// Operations whose products are kept at a time in the backward pass.
constexpr std::size_t kMostTogether = 4;

}  // namespace

std::vector<std::vector<double>> expected_sizes(const Cell& cell) {
  std::vector<std::vector<double>> sizes;
  for (std::size_t i = 0; i < cell.states.size(); ++i) {
    const bool input = i < static_cast<std::size_t>(cell.inputs);
    sizes.emplace_back(cell.states[i].channels, input ? std::numeric_limits<double>::infinity() : 0.0);
  }
  std::size_t next = 0;
  for (int sum = 0; sum + cell.inputs < static_cast<int>(cell.states.size()); ++sum) {
    std::vector<double>& size = sizes[cell.inputs + sum];
    for (; next < cell.operations.size() && cell.operations[next].sum == sum; ++next) {
      const CellOperation& operation = cell.operations[next];
      for (int c = 0; c < operation.out_channels; ++c) {
        const double gamma = std::abs(operation.gamma[c]);
        size[operation.first_out + c] +=
            operation.normalized ? gamma + std::abs(operation.beta[c]) : gamma * sizes[operation.first_state][c];
      }
    }
    for (const int source : residuals_of(cell, sum)) {
      for (std::size_t c = 0; c < size.size(); ++c) size[c] += sizes[source][c];
    }
  }
  return sizes;
}

template <typename State>
std::vector<GradientSource> choose_sources(const Cell& cell, int sum, const std::vector<Packed<State>>& packed,
                                           const std::vector<int>& residuals, const std::vector<double>& size) {
  constexpr double kLargest = sizeof(State) == sizeof(float) ? 32.0 : 16.0;
  std::vector<GradientSource> chosen(packed.size(), GradientSource::kProducts);
  bool all_whole = true;
  for (const Packed<State>& p : packed) {
    all_whole = all_whole && p.term().out_channels == cell.states[cell.inputs + sum].channels;
  }
  const auto legible = [&](const Packed<State>& p) {
    if (p.term().kind != CellKind::kSeparable) return false;
    for (int c = 0; c < p.term().out_channels; ++c) {
      if (!(size[p.operation().first_out + c] < kLargest * std::abs(p.operation().gamma[c]))) return false;
    }
    return true;
  };
  const auto overlap = [](const CellOperation& a, const CellOperation& b) {
    return a.first_out < b.first_out + b.out_channels && b.first_out < a.first_out + a.out_channels;
  };
  std::ptrdiff_t most = 0;
  std::size_t remainder = packed.size();
  for (std::size_t i = 0; i < packed.size(); ++i) {
    if (!legible(packed[i])) continue;
    bool alone = residuals.empty();
    for (std::size_t j = 0; j < packed.size(); ++j) {
      alone = alone && (i == j || !overlap(packed[i].operation(), packed[j].operation()));
    }
    if (alone) {
      chosen[i] = GradientSource::kSum;
    } else if (all_whole && packed[i].multiplications() > most) {
      most = packed[i].multiplications();
      remainder = i;
    }
  }
  // The others' products are all kept for it: a searched node has too many.
  if (remainder < packed.size() && packed.size() <= kMostTogether) chosen[remainder] = GradientSource::kRemainder;
  return chosen;
}

std::vector<std::vector<std::size_t>> groups_of(const std::vector<GradientSource>& values) {
  std::vector<std::vector<std::size_t>> groups;
  std::vector<std::size_t> last;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] == GradientSource::kRemainder) {
      last.push_back(i);
      continue;
    }
    if (groups.empty() || groups.back().size() == kMostTogether) groups.emplace_back();
    groups.back().push_back(i);
  }
  if (groups.empty() && !last.empty()) groups.emplace_back();
  if (!last.empty()) groups.back().insert(groups.back().end(), last.begin(), last.end());
  return groups;
}

#define PNF_INSTANTIATE(State)                                                                                    \
  template std::vector<GradientSource> choose_sources<State>(const Cell&, int, const std::vector<Packed<State>>&, \
                                                             const std::vector<int>&, const std::vector<double>&);
PNF_INSTANTIATE(float)
PNF_INSTANTIATE(Bf16)
#undef PNF_INSTANTIATE

}  // namespace pnf::cell_training
