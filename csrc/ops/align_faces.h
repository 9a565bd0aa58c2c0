// pocketnet_fast::align_faces: crops of a photo's faces.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace pnf::ops {

// photo: uint8 [H, W, 3]; landmarks: float64 [N, 5, 2], x and y -> uint8 [N, side, side, 3].
torch::stable::Tensor align_faces(const torch::stable::Tensor& photo, const torch::stable::Tensor& landmarks,
                                  std::int64_t side);

}  // namespace pnf::ops
