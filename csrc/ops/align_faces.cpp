#include "ops/align_faces.h"

#include <torch/csrc/stable/ops.h>

#include "faces/alignment.h"
#include "ops/check.h"
#include "ops/photo.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kName = "align_faces: ";
constexpr std::int64_t kMaxSide = 4096;

}  // namespace

Tensor align_faces(const Tensor& photo, const Tensor& landmarks, std::int64_t side) {
  check_photo(kName, photo);
  PNF_CHECK(landmarks.is_cpu() && landmarks.scalar_type() == ScalarType::Double && landmarks.dim() == 3 &&
                landmarks.size(1) == 5 && landmarks.size(2) == 2,
            kName, "landmarks must be float64 [N, 5, 2] on the CPU, got ", dtype_of(landmarks), " ",
            shape_of(landmarks));
  PNF_CHECK(side >= 1 && side <= kMaxSide, kName, "the side of a crop must lie in 1..", kMaxSide, ", got ", side);
  return told(kName, [&] {
    const Tensor pixels = torch::stable::contiguous(photo), places = torch::stable::contiguous(landmarks);
    const std::int64_t count = landmarks.size(0);
    Tensor crops = torch::stable::empty({count, side, side, 3}, ScalarType::Byte);
    const auto* from = static_cast<const double*>(places.const_data_ptr());
    auto* to = static_cast<std::uint8_t*>(crops.mutable_data_ptr());
    for (std::int64_t i = 0; i < count; ++i, to += 3 * side * side) {
      Point points[5];
      for (Point& point : points) {
        point = {from[0], from[1]};
        from += 2;
      }
      align(pixels_of(pixels), points, static_cast<int>(side), to);
    }
    return crops;
  });
}

}  // namespace pnf::ops
