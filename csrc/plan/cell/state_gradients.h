// What a cell has gathered of the gradient of each of its states.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/cell.h"
#include "plan/cell/images.h"

namespace pnf::cell_training {

// The gradients of a cell's states while they are gathered, from the last sum to the first input.
template <typename State>
class StateGradients {
 public:
  StateGradients(const Cell& cell, const CellKernels<State>& set, int threads,
                 const std::vector<const State*>& grad_sums, const std::vector<State*>& memory)
      : cell_(cell), set_(set), threads_(threads), memory_(memory), given_(memory.size()), written_(memory.size()) {
    for (std::size_t i = 0; i < grad_sums.size(); ++i) {
      if (grad_sums[i] != nullptr) given_[cell.inputs + i].push_back(grad_sums[i]);
    }
  }

  // Adds a gradient that lies elsewhere and stays there.
  void give(int state, const State* gradient) { given_[state].push_back(gradient); }

  // What an operation is to add its own gradient of a state to; null for nothing. It is in memory() afterwards.
  const State* begin(int state) {
    const State* before = written_[state] ? memory_[state] : nullptr;
    if (before == nullptr && !given_[state].empty()) {
      before = given_[state].back();
      given_[state].pop_back();
    }
    written_[state] = true;
    return before;
  }

  // All that has been gathered.
  const State* gathered(int state) {
    if (!written_[state] && given_[state].size() == 1) return given_[state].front();
    return gathered_in_memory(state);
  }
  State* gathered_in_memory(int state) {
    if (!given_[state].empty()) add_given(state);
    if (!written_[state] && given_[state].empty()) {
      std::fill(memory_[state], memory_[state] + elements_of(cell_.states[state]) * cell_.images, State{});
    }
    written_[state] = true;
    given_[state].clear();
    return memory_[state];
  }

 private:
  void add_given(int state) {
    const CellState& size = cell_.states[state];
    auto body = [&](const Visit& visit) {
      const std::ptrdiff_t at = visit.image * elements_of(size);
      std::vector<const State*> images;
      for (const State* gradient : given_[state]) images.push_back(gradient + at);
      set_.normalize_sum({.pixels = size.height * size.width,
                          .channels = size.channels,
                          .terms = nullptr,
                          .term_count = 0,
                          .residuals = images.data(),
                          .residual_count = static_cast<int>(images.size()),
                          .accumulate = written_[state],
                          .out = memory_[state] + at});
    };
    each_image(cell_.images, threads_, Order::kForwards, body);
    written_[state] = true;
  }

  const Cell& cell_;
  const CellKernels<State>& set_;
  int threads_;
  std::vector<State*> memory_;
  std::vector<std::vector<const State*>> given_;
  std::vector<bool> written_;
};

}  // namespace pnf::cell_training
