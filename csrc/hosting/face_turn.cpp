#include "hosting/face_turn.h"

#include <cmath>
#include <numbers>

namespace pocketnet::hosting {

int turn_of(const Landmarks& landmarks) {
  const auto middle = [&](int first, int second, int axis) {
    return (landmarks[first][axis] + landmarks[second][axis]) / 2;
  };
  const double right = middle(3, 4, 0) - middle(0, 1, 0);  // from the eyes to the corners of the mouth
  const double down = middle(3, 4, 1) - middle(0, 1, 1);
  const double tilt = std::atan2(-right, down) * 180 / std::numbers::pi;
  return (static_cast<int>(std::lround(-tilt / 90)) % 4 + 4) % 4 * 90;
}

}  // namespace pocketnet::hosting
