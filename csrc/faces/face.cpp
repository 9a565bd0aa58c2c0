#include "faces/face.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pnf {
namespace {

// In units of the box's shorter side and of the distance from the eyes to the mouth; wide enough for profiles.
constexpr double kOutside = 0.35;
constexpr double kLeastEyesToMouth = 0.2, kMostEyesToMouth = 1.1;
constexpr double kNoseAbove = -0.3, kNoseBelow = 1.3;
constexpr double kCrossedEyes = -0.35;

Point eyes(const Face& face) { return 0.5 * (face.landmarks[0] + face.landmarks[1]); }
Point mouth(const Face& face) { return 0.5 * (face.landmarks[3] + face.landmarks[4]); }

double dot(Point a, Point b) { return a.real() * b.real() + a.imag() * b.imag(); }

// The centre of pixel x of one image in another, whose pixels are `ratio` times as many.
double scaled(double x, double ratio) { return (x + 0.5) * ratio - 0.5; }

}  // namespace

Point Face::middle() const { return (landmarks[0] + landmarks[1] + landmarks[2] + landmarks[3] + landmarks[4]) / 5.0; }

double Face::tilt() const {
  const Point down = mouth(*this) - eyes(*this);
  return std::atan2(-down.real(), down.imag()) * 180.0 / std::numbers::pi;
}

Face face_of(const Detection& found, double width, double height) {
  Face face{scaled(found.left, width),
            scaled(found.top, height),
            found.width * width,
            found.height * height,
            {},
            found.score};
  for (int i = 0; i < 5; ++i) {
    face.landmarks[i] = {scaled(found.landmarks[2 * i], width), scaled(found.landmarks[2 * i + 1], height)};
  }
  return face;
}

Face moved(const Face& face, const Similarity& transform) {
  const double scale = std::abs(transform.scale);
  Face result = face;
  result.width = face.width * scale;
  result.height = face.height * scale;
  if (std::abs(transform.scale.imag()) > std::abs(transform.scale.real())) std::swap(result.width, result.height);
  const Point centre = transform(face.centre());
  result.left = centre.real() - result.width / 2;
  result.top = centre.imag() - result.height / 2;
  for (Point& landmark : result.landmarks) landmark = transform(landmark);
  return result;
}

double overlap(const Face& one, const Face& other) {
  const double right = std::min(one.left + one.width, other.left + other.width);
  const double bottom = std::min(one.top + one.height, other.top + other.height);
  const double wide = std::max(0.0, right - std::max(one.left, other.left));
  const double high = std::max(0.0, bottom - std::max(one.top, other.top));
  const double both = wide * high;
  return both / (one.width * one.height + other.width * other.height - both);
}

double distance(const Face& one, const Face& other) { return std::abs(one.middle() - other.middle()) / one.size(); }

Doubt implausible(const Face& face) {
  double outside = -1.0;
  for (const Point& point : face.landmarks) {
    outside = std::max({outside, face.left - point.real(), face.top - point.imag(),
                        point.real() - face.left - face.width, point.imag() - face.top - face.height});
  }
  if (outside > kOutside * face.size()) return Doubt::kOutside;
  Point down = mouth(face) - eyes(face);
  const double length = std::abs(down);
  if (!(length >= kLeastEyesToMouth * face.size() && length <= kMostEyesToMouth * face.size())) return Doubt::kDistance;
  down /= length;
  const Point across{down.imag(), -down.real()};
  if (dot(face.landmarks[1] - face.landmarks[0], across) < kCrossedEyes * length) return Doubt::kSwappedEyes;
  const double nose = dot(face.landmarks[2] - eyes(face), down) / length;
  return nose >= kNoseAbove && nose <= kNoseBelow ? Doubt::kNone : Doubt::kNose;
}

}  // namespace pnf
