#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace pnf::ops {

// What the arguments mean: pocketnet_fast/ops/cell/reference.py and structure.py. The states returned are the cell's
// sums, channels-last; the moments are float64.
std::tuple<std::vector<torch::stable::Tensor>, torch::stable::Tensor, torch::stable::Tensor> cell(
    std::vector<torch::stable::Tensor> inputs, std::vector<torch::stable::Tensor> parameters,
    std::vector<std::int64_t> structure, std::vector<double> epsilon);

// states: the inputs and the sums. grads: of the sums; an empty tensor stands for zero. Returns the gradients of the
// inputs, then those of the parameters.
std::vector<torch::stable::Tensor> cell_backward(std::vector<torch::stable::Tensor> grads,
                                                 std::vector<torch::stable::Tensor> states,
                                                 std::vector<torch::stable::Tensor> parameters,
                                                 torch::stable::Tensor mean, torch::stable::Tensor variance,
                                                 std::vector<std::int64_t> structure, std::vector<double> epsilon);

}  // namespace pnf::ops
