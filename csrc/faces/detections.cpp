#include "faces/detections.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "plan/sort_stably.h"

namespace pnf {
namespace {

float probability(float logit) { return 1.0f / (1.0f + std::exp(-logit)); }

// The least logit of a class or an objectness with which a score can be reached.
float least_logit(float score) {
  const float least = score * score;
  if (least <= 0.0f) return -std::numeric_limits<float>::infinity();
  return least >= 1.0f ? std::numeric_limits<float>::infinity() : std::log(least / (1.0f - least)) - 1e-3f;
}

Detection at(const float* place, int x, int y, int stride, float score) {
  const auto side = static_cast<float>(stride);
  const float wide = std::exp(place[4]) * side, high = std::exp(place[5]) * side;
  Detection found;
  found.left = (static_cast<float>(x) + place[2]) * side - wide / 2;
  found.top = (static_cast<float>(y) + place[3]) * side - high / 2;
  found.width = wide;
  found.height = high;
  for (int i = 0; i < 5; ++i) {
    found.landmarks[2 * i] = (place[6 + 2 * i] + static_cast<float>(x)) * side;
    found.landmarks[2 * i + 1] = (place[7 + 2 * i] + static_cast<float>(y)) * side;
  }
  found.score = score;
  return found;
}

// A box in whole pixels.
struct Box {
  long left, top, right, bottom;
  double area() const { return static_cast<double>(right - left) * static_cast<double>(bottom - top); }
};

// Faces of a size that no image has would not fit an integer.
long whole(float x) { return static_cast<long>(std::clamp(x, -1e8f, 1e8f)); }

Box box_of(const Detection& face) {
  const long left = whole(face.left), top = whole(face.top);
  return {left, top, left + whole(face.width), top + whole(face.height)};
}

double overlap(const Box& a, const Box& b) {
  const double both = a.area() + b.area();
  if (both <= 0.0) return 1.0;
  const Box inside = {std::max(a.left, b.left), std::max(a.top, b.top), std::min(a.right, b.right),
                      std::min(a.bottom, b.bottom)};
  if (inside.left >= inside.right || inside.top >= inside.bottom) return 0.0;
  return inside.area() / (both - inside.area());
}

// A face, and the mean of what the places see that see it, too. A single place's numbers stay as they are.
class Blend {
 public:
  explicit Blend(const Detection& best) : best_(best) {}

  void add(const Detection& other) {
    if (weight_ == 0.0) add(best_, 1.0);
    add(other, std::pow(static_cast<double>(other.score) / best_.score, kSharpness));
  }

  operator Detection() const {
    Detection face = best_;
    if (weight_ == 0.0) return face;
    for (int i = 0; i < kNumbers; ++i) (&face.left)[i] = static_cast<float>(sums_[i] / weight_);
    return face;
  }

 private:
  // All but the score.
  static constexpr int kNumbers = sizeof(Detection) / sizeof(float) - 1;

  void add(const Detection& face, double weight) {
    for (int i = 0; i < kNumbers; ++i) sums_[i] += weight * (&face.left)[i];
    weight_ += weight;
  }

  Detection best_;
  double sums_[kNumbers] = {};
  double weight_ = 0.0;
};

}  // namespace

std::pmr::vector<Detection> detections(const float* maps, int height, int width, const DetectionOptions& options,
                                       std::pmr::memory_resource* memory) {
  std::pmr::vector<Detection> candidates(memory);
  const float least = least_logit(options.least_score);
  for (const int stride : kDetectorStrides) {
    const int rows = height / stride, columns = width / stride;
    for (int y = 0; y < rows; ++y) {
      for (int x = 0; x < columns; ++x, maps += kDetectorChannels) {
        // A NaN is no face.
        if (!(maps[0] >= least && maps[1] >= least)) continue;
        const float score = std::sqrt(probability(maps[0]) * probability(maps[1]));
        if (!(score > options.least_score)) continue;
        const Detection found = at(maps, x, y, stride, score);
        const float* const numbers = &found.left;
        if (std::all_of(numbers, numbers + sizeof(found) / sizeof(float), [](float n) { return std::isfinite(n); })) {
          candidates.push_back(found);
        }
      }
    }
  }
  sort_stably(candidates, [](const Detection& a, const Detection& b) { return a.score > b.score; });
  if (candidates.size() > static_cast<std::size_t>(options.most_candidates)) candidates.resize(options.most_candidates);
  std::pmr::vector<Box> kept(memory);
  std::pmr::vector<Blend> faces(memory);
  for (const Detection& face : candidates) {
    const Box box = box_of(face);
    const auto same = std::find_if(kept.begin(), kept.end(),
                                   [&](const Box& other) { return overlap(box, other) > options.most_overlap; });
    if (same == kept.end()) {
      kept.push_back(box);
      faces.emplace_back(face);
    } else if (options.blend && overlap(box, *same) > kAlike) {
      faces[same - kept.begin()].add(face);
    }
  }
  return std::pmr::vector<Detection>(faces.begin(), faces.end(), memory);
}

}  // namespace pnf
