#include "faces/way_up.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace pnf {
namespace {

// Between the best score of a photo the wrong way up and the least of one the right way up.
constexpr double kConvincing = 0.918;
// After looking at the quarter turns, a lower score that is far above the others' is enough.
constexpr double kLikely = 0.86, kFarAbove = 0.03;
// Two ways up whose scores lie closer than this are not told apart: the least distance on photos was 0.031.
constexpr double kClear = 0.015;
constexpr int kQuarterTurns = 4;
constexpr double kOtherWay = 60.0;
constexpr double kSamePlace = 0.5;  // distance of two faces' middles

double best_score(const Faces& faces) {
  double best = 0.0;
  for (const Face& face : faces) best = std::max(best, face.score);
  return best;
}

// Marks a face that is about as likely another way up.
void compare(Face& face, const std::pmr::vector<Faces>& ways) {
  for (const Faces& way : ways) {
    for (const Face& rival : way) {
      const double angle = std::abs(std::remainder(rival.tilt() - face.tilt(), 360.0));
      if (distance(face, rival) < kSamePlace && angle > kOtherWay && rival.score > face.score - kClear) {
        face.doubt = Doubt::kWayUp;
        face.rival = rival.score;
        return;
      }
    }
  }
}

}  // namespace

Faces faces_of_best_way_up(const Look& look, std::pmr::memory_resource* memory) {
  std::pmr::vector<Faces> ways(memory);
  ways.push_back(look(0));
  if (best_score(ways.front()) < kConvincing) {
    for (const int tilt : {90, 180, 270}) ways.push_back(look(tilt));
    double scores[kQuarterTurns];
    std::transform(ways.begin(), ways.end(), scores, best_score);
    std::sort(std::begin(scores), std::end(scores), std::greater());
    if (scores[0] < kLikely || scores[0] < scores[1] + kFarAbove) {
      for (const int tilt : {45, 135, 225, 315}) ways.push_back(look(tilt));
    }
  }
  // Of equally good ways the first, the photo as given before all others.
  const auto best = std::max_element(ways.begin(), ways.end(),
                                     [](const Faces& a, const Faces& b) { return best_score(a) < best_score(b); });
  Faces chosen(*best, memory);
  for (Face& face : chosen) compare(face, ways);
  return chosen;
}

}  // namespace pnf
