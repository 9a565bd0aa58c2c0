// pocketnet_fast::find_faces: the faces of a photo of any size, whichever way up it is.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace pnf::ops {

// float64 [N, 17]: left, top, width and height of the box, x and y of five landmarks, the score, a number of Doubt, and the
// score of the other way up.
torch::stable::Tensor find_faces(const torch::stable::Tensor& photo, const torch::stable::Tensor& program,
                                 const torch::stable::Tensor& weights, double least_score, bool upright,
                                 std::int64_t threads);

}  // namespace pnf::ops
