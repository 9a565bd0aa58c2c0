#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace pnf::ops {

// image: uint8 [H, W, 3] in the program's colour order; any strides. program, weights: of a YuNet, as plan/program.h
// describes. Returns float32 [N, 15], best scores first: left, top, width, height, five landmarks, score. threads = 0 takes
// torch's number.
torch::stable::Tensor detect_faces(const torch::stable::Tensor& image, const torch::stable::Tensor& program,
                                   const torch::stable::Tensor& weights, double least_score, double most_overlap,
                                   std::int64_t most_candidates, bool blend, std::int64_t threads);

}  // namespace pnf::ops
