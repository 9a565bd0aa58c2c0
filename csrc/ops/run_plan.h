#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace pnf::ops {

// input: float32 [N, 3, H, W], normalised RGB, or uint8 [N, H, W, 3]; any strides. program: int32 words, weights:
// float32, as plan/program.h describes. Returns float32 [N, embedding]. threads = 0 takes torch's number.
torch::stable::Tensor run_plan(const torch::stable::Tensor& input, const torch::stable::Tensor& program,
                               const torch::stable::Tensor& weights, std::int64_t embedding, std::int64_t threads,
                               bool flip);

}  // namespace pnf::ops
