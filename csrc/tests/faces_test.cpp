// Faces of photos but for the network: resampling, alignment, what is doubtful, and which way up a photo is.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "faces/alignment.h"
#include "faces/face.h"
#include "faces/resample.h"
#include "faces/way_up.h"
#include "support.h"

namespace pnf::test {
namespace {

// Pixels in guarded memory: exactly as many bytes as the image has.
OwnedPixels random_image(Random& random, int height, int width) {
  OwnedPixels image(height, width);
  for (int y = 0; y < height; ++y) {
    for (int i = 0; i < 3 * width; ++i) image.row(y)[i] = static_cast<std::uint8_t>(random.integer(0, 255));
  }
  return image;
}

double at(const Pixels& image, int x, int y, int c) {
  return x >= 0 && y >= 0 && x < image.width && y < image.height ? image.row(y)[3 * x + c] : 0.0;
}

// Share of source pixel i in result pixel `place`, along one axis.
double share(int from, int to, int place, int i) {
  const double step = static_cast<double>(from) / to;
  if (to <= from) {
    const double begin = std::max<double>(i, place * step), end = std::min<double>(i + 1, (place + 1) * step);
    return std::max(0.0, end - begin) / step;
  }
  const double centre = std::clamp((place + 0.5) * step - 0.5, 0.0, from - 1.0);
  return std::max(0.0, 1.0 - std::abs(centre - i));
}

void resizing() {
  struct Case {
    int height, width, new_height, new_width;
  };
  constexpr Case kCases[] = {{7, 9, 7, 9},   {7, 9, 3, 4},   {7, 9, 1, 1},   {7, 9, 20, 31}, {1, 1, 5, 4},
                             {1, 40, 1, 13}, {40, 1, 13, 1}, {31, 17, 8, 4}, {8, 8, 4, 4},   {13, 29, 26, 58}};
  Random random(1);
  for (const Case& c : kCases) {
    const OwnedPixels whole = random_image(random, c.height + 2, c.width + 3);
    // A part, whose rows do not follow one another.
    const Pixels image = whole.pixels().part(2, 1, c.width, c.height);
    const OwnedPixels found = resized(image, c.new_height, c.new_width);
    for (int y = 0; y < c.new_height; ++y) {
      for (int x = 0; x < c.new_width; ++x) {
        for (int k = 0; k < 3; ++k) {
          double sum = 0.0;
          for (int i = 0; i < c.height; ++i) {
            for (int j = 0; j < c.width; ++j) {
              sum += share(c.height, c.new_height, y, i) * share(c.width, c.new_width, x, j) * at(image, j, i, k);
            }
          }
          CHECK(std::abs(at(found.pixels(), x, y, k) - sum) <= 0.501, "%dx%d to %dx%d: (%d, %d) is %g, not %g",
                c.height, c.width, c.new_height, c.new_width, x, y, at(found.pixels(), x, y, k), sum);
        }
      }
    }
  }
}

void turning() {
  Random random(2);
  for (const auto& [height, width] : {std::pair{7, 5}, {6, 9}, {1, 4}, {8, 8}}) {
    const OwnedPixels image = random_image(random, height, width);
    for (const int degrees : {0, 90, 180, 270}) {
      const OwnedPixels found = turned(image.pixels(), degrees);
      // The same turn as a transform of the centres.
      const Point turn = std::polar(1.0, degrees * std::numbers::pi / 180.0);
      const Point centre{(width - 1) / 2.0, (height - 1) / 2.0};
      const Point new_centre{(found.width() - 1) / 2.0, (found.height() - 1) / 2.0};
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          const Point to = turn * (Point(x, y) - centre) + new_centre;
          const auto column = static_cast<int>(std::lround(to.real())), row = static_cast<int>(std::lround(to.imag()));
          for (int c = 0; c < 3; ++c) {
            CHECK(at(found.pixels(), column, row, c) == at(image.pixels(), x, y, c), "%d degrees of %dx%d: (%d, %d)",
                  degrees, height, width, x, y);
          }
        }
      }
    }
  }
}

double bilinear(const Pixels& image, Point place, int c) {
  const double left = std::floor(place.real()), top = std::floor(place.imag());
  const double x = place.real() - left, y = place.imag() - top;
  const auto column = static_cast<int>(left), row = static_cast<int>(top);
  return (1 - y) * ((1 - x) * at(image, column, row, c) + x * at(image, column + 1, row, c)) +
         y * ((1 - x) * at(image, column, row + 1, c) + x * at(image, column + 1, row + 1, c));
}

void warping() {
  Random random(3);
  for (int i = 0; i < 40; ++i) {
    const OwnedPixels image = random_image(random, random.integer(1, 40), random.integer(1, 40));
    const int height = random.integer(1, 30), width = random.integer(1, 30);
    const Similarity transform = {std::polar<double>(random.real(0.7f, 4.0f), random.real(-3.2f, 3.2f)),
                                  Point{random.real(-20.0f, 40.0f), random.real(-20.0f, 40.0f)}};
    const OwnedPixels found = warped(image.pixels(), transform, height, width);
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const Point place = transform.inverse()(Point(x, y));
        for (int c = 0; c < 3; ++c) {
          const double expected = bilinear(image.pixels(), place, c);
          // Places are rounded to 1/1024 in both directions.
          CHECK(std::abs(at(found.pixels(), x, y, c) - expected) <= 0.5 + 256.0 / 1024 + 1e-6, "(%d, %d) is %g, not %g",
                x, y, at(found.pixels(), x, y, c), expected);
        }
      }
    }
  }
  // Much smaller: no pixel is skipped, so stripes become grey, and what lies outside stays black.
  OwnedPixels stripes(400, 400);
  for (int y = 0; y < 400; ++y) {
    for (int x = 0; x < 400; ++x) std::fill_n(stripes.row(y) + 3 * x, 3, x % 2 == 0 ? 0 : 200);
  }
  for (const double angle : {0.0, 0.3, 2.0}) {
    const Point turn = std::polar(0.1, angle);
    const Point centre{199.5, 199.5}, goal{24.5, 24.5};
    const OwnedPixels found = warped(stripes.pixels(), {turn, goal - turn * centre}, 50, 50);
    for (int y = 0; y < 50; ++y) {
      for (int x = 0; x < 50; ++x) {
        const double radius = std::abs(Point(x, y) - goal);
        const double value = at(found.pixels(), x, y, 1);
        CHECK(radius > 18 || std::abs(value - 100) <= 2, "angle %g: (%d, %d) is %g", angle, x, y, value);
        CHECK(radius < 30 || value == 0, "angle %g: (%d, %d) outside is %g", angle, x, y, value);
      }
    }
  }
  OwnedPixels result(2, 2);
  const OwnedPixels one = random_image(random, 3, 3);
  for (const double far : {1e30, std::numeric_limits<double>::quiet_NaN()}) {
    warp(one.pixels(), {1.0, Point{far, far}}, 2, 2, result.row(0));
    CHECK(at(result.pixels(), 1, 1, 0) == 0, "a place at %g is not black", far);
  }
}

void aligning() {
  Random random(4);
  for (int i = 0; i < 20; ++i) {
    const Similarity truth = {std::polar<double>(random.real(0.2f, 5.0f), random.real(-3.2f, 3.2f)),
                              Point{random.real(-100.0f, 300.0f), random.real(-100.0f, 300.0f)}};
    Point landmarks[5];
    std::transform(std::begin(kTemplate), std::end(kTemplate), landmarks, truth);
    for (const int side : {112, 56}) {
      const Similarity found = to_template(landmarks, side);
      for (int k = 0; k < 5; ++k) {
        CHECK(std::abs(found(landmarks[k]) - kTemplate[k] * (side / 112.0)) < 1e-9, "landmark %d of %d", k, i);
      }
    }
  }
  Point landmarks[5] = {};
  CHECK_THROWS(std::invalid_argument, to_template(landmarks, 112), "landmarks that coincide");
  for (Point& landmark : landmarks) landmark = {random.real(0.0f, 9.0f), std::nan("")};
  CHECK_THROWS(std::invalid_argument, to_template(landmarks, 112), "landmarks that are not finite");
  // Mirrored faces are not reflected onto the template: as near as rotation comes.
  for (int k = 0; k < 5; ++k) landmarks[k] = std::conj(kTemplate[k]);
  CHECK(std::isfinite(std::abs(to_template(landmarks, 112).scale)), "mirrored landmarks");
}

// A face of the template's proportions about a point, tilted clockwise by so many degrees.
Face face_at(Point centre, double tilt, double score, double size = 60.0) {
  Face face{centre.real() - size / 2, centre.imag() - size / 2, size, size, {}, score};
  Point mean = 0.0;
  for (const Point& landmark : kTemplate) mean += landmark / 5.0;
  const Point turn = std::polar(size / 80.0, tilt * std::numbers::pi / 180.0);
  for (int k = 0; k < 5; ++k) face.landmarks[k] = centre + turn * (kTemplate[k] - mean);
  return face;
}

void tilts() {
  for (const double tilt : {0.0, 30.0, -44.0, 90.0, -90.0, 179.0, -136.0}) {
    CHECK(std::abs(face_at({100, 80}, tilt, 0.9).tilt() - tilt) < 1.0, "%g is not %g",
          face_at({100, 80}, tilt, 0.9).tilt(), tilt);
  }
  const Face face = face_at({100, 80}, 10, 0.9);
  const Similarity quarter = {Point{0, 2}, Point{300, 5}};
  Face there = moved(face, quarter);
  CHECK(std::abs(there.tilt() - face.tilt() - 90) < 1e-9, "a quarter turn tilts by %g", there.tilt() - face.tilt());
  CHECK(there.width == 2 * face.height && std::abs(there.centre() - quarter(face.centre())) < 1e-9, "the box moves");
  CHECK(overlap(face, face) == 1.0 && overlap(face, there) == 0.0, "overlap");
}

template <typename Change>
Doubt doubt_of(Change change) {
  Face face = face_at({100, 100}, 0, 0.9);
  change(face.landmarks);
  return implausible(face);
}

void doubts() {
  CHECK(doubt_of([](Point*) {}) == Doubt::kNone, "a face is one");
  const auto profile = [](Point* p) {
    const double eyes = (p[0].real() + p[1].real()) / 2, mouth = (p[3].real() + p[4].real()) / 2;
    p[0] = {eyes - 1, p[0].imag()}, p[1] = {eyes + 1, p[1].imag()};
    p[3] = {mouth, p[3].imag()}, p[4] = {mouth, p[4].imag()};
    p[2] -= 15;
  };
  CHECK(doubt_of(profile) == Doubt::kNone, "a profile is a face");
  const auto mirrored = [](Point* p) { std::transform(p, p + 5, p, [](Point z) { return 200.0 - std::conj(z); }); };
  CHECK(doubt_of(mirrored) == Doubt::kSwappedEyes, "the eyes are on each other's side");
  CHECK(doubt_of([](Point* p) { p[2] -= Point{0, 40}; }) == Doubt::kNose, "the nose is above the eyes");
  CHECK(doubt_of([](Point* p) { std::for_each(p, p + 5, [](Point& z) { z += Point{200, 200}; }); }) == Doubt::kOutside,
        "they lie outside the box");
  CHECK(doubt_of([](Point* p) { std::fill(p, p + 5, Point{100, 100}); }) == Doubt::kDistance, "all in one place");
}

// Of a face that is tilted by `tilt`, and that the detector is sure of as far as it sees it upright.
template <typename Score>
Faces best_way_up(double tilt, Score score, int& looks) {
  looks = 0;
  return faces_of_best_way_up([&](int taken_away) -> Faces {
    ++looks;
    const double seen = std::remainder(tilt - taken_away, 360.0);
    return {face_at({200, 150}, taken_away, score(seen))};
  });
}

void ways_up() {
  int looks;
  Faces found = best_way_up(0, [](double) { return 0.94; }, looks);
  CHECK(looks == 1 && found.size() == 1 && found[0].doubt == Doubt::kNone, "a convincing face costs %d looks", looks);
  for (const double tilt : {0.0, 90.0, 180.0, 270.0}) {
    found = best_way_up(tilt, [](double seen) { return std::abs(seen) < 1 ? 0.91 : 0.85; }, looks);
    CHECK(looks == 4, "%g: %d looks", tilt, looks);
    CHECK(std::abs(std::remainder(found[0].tilt() - tilt, 360.0)) < 1.0, "%g was taken for %g", tilt, found[0].tilt());
    CHECK(found[0].doubt == Doubt::kNone, "%g is doubtful", tilt);
  }
  found = best_way_up(135, [](double seen) { return std::abs(seen) < 1 ? 0.91 : 0.8; }, looks);
  CHECK(looks == 8 && std::abs(found[0].tilt() - 135) < 1.0, "135 was taken for %g after %d looks", found[0].tilt(),
        looks);
  found = best_way_up(0, [](double seen) { return std::abs(seen) < 1 ? 0.88 : 0.875; }, looks);
  CHECK(found[0].doubt == Doubt::kWayUp && found[0].rival == 0.875, "two ways up are as likely");
  looks = 0;
  CHECK(faces_of_best_way_up([&](int) { return ++looks, Faces(); }).empty() && looks == 8, "no face in %d looks",
        looks);
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  return check::run(resizing, turning, warping, aligning, tilts, doubts, ways_up);
}
