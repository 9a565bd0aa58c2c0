// Photos as tensors.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

#include "faces/pixels.h"
#include "ops/check.h"
#include "ops/shape.h"

namespace pnf::ops {

// What indices of pixels and bytes hold with room to spare.
inline constexpr std::int64_t kMaxPhotoSide = 1 << 20;

inline void check_photo(const char* operation, const torch::stable::Tensor& photo) {
  PNF_CHECK(photo.is_cpu(), operation, "photos must lie in the CPU's memory");
  PNF_CHECK(photo.scalar_type() == torch::headeronly::ScalarType::Byte && photo.dim() == 3 && photo.size(2) == 3 &&
                photo.size(0) > 0 && photo.size(1) > 0,
            operation, "a photo must be uint8 [H, W, 3], got ", dtype_of(photo), " ", shape_of(photo));
  PNF_CHECK(photo.size(0) <= kMaxPhotoSide && photo.size(1) <= kMaxPhotoSide, operation, "the photo is ",
            shape_of(photo), "; its sides may be ", kMaxPhotoSide, " at most");
}

// A contiguous one's.
inline Pixels pixels_of(const torch::stable::Tensor& photo) {
  const auto height = static_cast<int>(photo.size(0)), width = static_cast<int>(photo.size(1));
  return {static_cast<const std::uint8_t*>(photo.const_data_ptr()), height, width, std::ptrdiff_t{3} * width};
}

}  // namespace pnf::ops
