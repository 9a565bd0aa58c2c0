#include "faces/quality.h"

#include <algorithm>
#include <cmath>

#include "faces/alignment.h"

namespace pnf {
namespace {

// Crops of 40 pixels a side, and larger ones, are decided about as well as those of 112.
constexpr double kEnough = 112.0 / 40.0;
// A score beyond this says no more.
constexpr double kSurest = 0.97;
// The weight of size beside that of the score.
constexpr double kSize = 0.6;
// Where half and one in twenty of the benchmarks' faces lie below.
constexpr double kMedian = 2.83, kSpread = 0.16;
// Faces of less than half a pixel would let exp overflow.
constexpr double kMost = 700.0;

}  // namespace

double quality_of(const Face& face) {
  const double scale = std::abs(to_template(face.landmarks, kCropSide).scale);
  const double certainty = -std::log(1.0 - std::min(face.score, kSurest));
  const double smallness = std::max(0.0, scale / kEnough - 1.0);
  return 1.0 / (1.0 + std::exp(std::min((kMedian - certainty + kSize * smallness) / kSpread, kMost)));
}

}  // namespace pnf
