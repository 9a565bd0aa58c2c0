#include "faces/alignment.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "faces/resample.h"

namespace pnf {

Similarity to_template(std::span<const Point, 5> landmarks, int side) {
  const double size = static_cast<double>(side) / kCropSide;
  Point mean = 0.0, goal_mean = 0.0;
  double largest = 1.0;
  for (int i = 0; i < 5; ++i) {
    if (!std::isfinite(landmarks[i].real()) || !std::isfinite(landmarks[i].imag())) {
      throw std::invalid_argument("landmarks must be finite numbers");
    }
    largest = std::max({largest, std::abs(landmarks[i].real()), std::abs(landmarks[i].imag())});
    mean += landmarks[i] / 5.0;
    goal_mean += size * kTemplate[i] / 5.0;
  }
  Point shared = 0.0;
  double spread = 0.0, goal_spread = 0.0;
  for (int i = 0; i < 5; ++i) {
    const Point from = landmarks[i] - mean, to = size * kTemplate[i] - goal_mean;
    shared += std::conj(from) * to;
    spread += std::norm(from);
    goal_spread += std::norm(to);
  }
  if (!(std::sqrt(spread) > 1e-6 * largest)) {
    throw std::invalid_argument("landmarks coincide, so they fix neither scale nor rotation");
  }
  const Point scale = shared / spread;
  if (!(std::abs(scale) * std::sqrt(spread) > 1e-3 * std::sqrt(goal_spread))) {
    throw std::invalid_argument("landmarks lie so unlike the template that no similarity transform relates them");
  }
  return {scale, goal_mean - scale * mean};
}

void align(const Pixels& photo, std::span<const Point, 5> landmarks, int side, std::uint8_t* out) {
  warp(photo, to_template(landmarks, side), side, side, out);
}

}  // namespace pnf
