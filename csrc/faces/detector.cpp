#include "faces/detector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <numbers>
#include <optional>

#include "faces/resample.h"
#include "faces/way_up.h"
#include "plan/sort_stably.h"

namespace pnf {
namespace {

constexpr int kUnit = kDetectorStrides[2];

int up_to_unit(int side) { return (side + kUnit - 1) / kUnit * kUnit; }

// The faces of an image of height x width that `draw` writes as resize() does.
template <typename Draw>
std::pmr::vector<Detection> detect(int height, int width, DetectorNetwork& network, const DetectionOptions& options,
                                   Draw draw) {
  const int high = up_to_unit(height), wide = up_to_unit(width);
  const std::size_t row = std::size_t{3} * wide;
  std::uint8_t* const pixels = network.image(high, wide);
  draw(pixels, static_cast<std::ptrdiff_t>(row));
  for (int y = 0; y < height; ++y)
    std::memset(pixels + row * y + std::size_t{3} * width, 0, row - std::size_t{3} * width);
  std::memset(pixels + row * height, 0, row * (high - height));
  return detections(network.maps(), high, wide, options, network.memory());
}

// The long side of a detector's input is first brought between these two; then, until a face shows, to each of the others.
constexpr int kLeastFirstSide = 256, kMostFirstSide = kMostSideOfParts;
constexpr int kOtherSides[] = {kMostSideOfParts, kMostSideOfPhotos, 256};
// How far an image is enlarged at most, and the only one of the other sides that is worth enlarging for.
constexpr double kMostUpscaling = 4.0;
constexpr int kSideOfSmallFaces = kMostSideOfParts;
// With a MobileFaceNet, same and different pairs lie 5.3 standard deviations apart when faces are brought to 64 pixels, 6.6
// at 128, 7.1 to 7.8 from 160 to 320. So a face that was seen smaller or larger than this is looked at again, alone, at
// the size below.
constexpr double kLeastWellSeen = 160.0, kMostWellSeen = 350.0;
constexpr double kSecondLook = 224.0;  // at 200, landmarks and tilts are worse
// With a quarter instead of a tenth of a face around it, pairs lie as far apart, for 1.4 times the pixels.
constexpr double kMargin = 0.1, kAround = 1.8;
// Second looks blend what several places see (DetectionOptions::blend): on photos, pairs of one person and of two then lie
// 5.95 instead of 5.69 standard deviations apart.
constexpr double kSameFace = 0.4;   // overlap of its boxes at two looks
constexpr double kSamePlace = 0.5;  // distance of its middles at two looks

// Beyond it, landmarks show less of a tilt than there is: a face tilted by 30 degrees may seem tilted by 16.
constexpr double kTilted = 12.0;
constexpr int kLooksAlongTilt = 2;

// By how much an image is enlarged, one look after another; 0 after the last one.
std::array<double, 1 + std::size(kOtherSides)> scales(int long_side) {
  std::array<double, 1 + std::size(kOtherSides)> result = {std::min<double>(
      std::clamp(long_side, kLeastFirstSide, kMostFirstSide) / static_cast<double>(long_side), kMostUpscaling)};
  auto end = result.begin() + 1;
  for (const int side : kOtherSides) {
    const double most = side == kSideOfSmallFaces ? kMostUpscaling : 1.0;
    const double scale = std::min(side / static_cast<double>(long_side), most);
    if (std::find(result.begin(), end, scale) == end) *end++ = scale;
  }
  return result;
}

int scaled_side(int side, double scale) { return std::max(1, static_cast<int>(std::nearbyint(side * scale))); }

Point turn_of(double degrees) { return std::polar(1.0, degrees * std::numbers::pi / 180.0); }

// A photo whose clockwise tilt is taken away, black around it. Nothing of it is drawn before it is looked at.
class Straightened {
 public:
  Straightened(const Pixels& photo, int tilt, DetectorNetwork& network, float least_score)
      : photo_(photo), tilt_(tilt), network_(network) {
    options_.least_score = least_score;
    blended_ = options_;
    blended_.blend = true;
    const double width = photo.width, height = photo.height;
    // Taking a clockwise tilt away turns counterclockwise. Quarter turns are exact.
    Point turn = turn_of(-tilt);
    if (quarter()) turn = {std::round(turn.real()), std::round(turn.imag())};
    const double across = std::abs(turn.real()), along = std::abs(turn.imag());
    width_ = static_cast<int>(std::lround(width * across + height * along));
    height_ = static_cast<int>(std::lround(width * along + height * across));
    const Point centre{(width - 1) / 2, (height - 1) / 2}, new_centre{(width_ - 1) / 2.0, (height_ - 1) / 2.0};
    from_photo_ = {turn, new_centre - turn * centre};
  }

  // In the photo's coordinates.
  Faces faces(bool along_tilt) const {
    Faces found = seen();
    const Similarity back = from_photo_.inverse();
    for (Face& face : found) face = moved(along_tilt ? seen_along_tilt(face) : face, back);
    return found;
  }

 private:
  std::pmr::memory_resource* memory() const { return network_.memory(); }

  bool quarter() const { return tilt_ % 90 == 0; }

  Faces seen() const {
    for (const double scale : scales(std::max(height_, width_))) {
      if (scale == 0.0) break;
      Faces found = look(0, 0, width_, height_, scale, options_);
      if (found.empty()) continue;
      for (Face& face : found) face = seen_well(face, scale);
      return found;
    }
    return Faces(memory());
  }

  // The faces of a part of it, drawn `scale` times as large.
  Faces look(int left, int top, int wide, int high, double scale, const DetectionOptions& options) const {
    const int height = scaled_side(high, scale), width = scaled_side(wide, scale);
    double per_x = static_cast<double>(wide) / width, per_y = static_cast<double>(high) / height;
    if (!quarter()) per_x = per_y = 0.5 * (per_x + per_y);
    const auto draw = [&](std::uint8_t* out, std::ptrdiff_t stride) {
      if (tilt_ == 0) {
        resize(photo_.part(left, top, wide, high), height, width, out, stride, memory());
        return;
      }
      // What was reduced is quicker to turn.
      const OwnedPixels part = quarter() ? turned_part(left, top, wide, high, height, width)
                                         : warped(photo_, in_part(left, top, 1.0 / per_x), height, width, memory());
      resize(part.pixels(), height, width, out, stride, memory());
    };
    Faces faces(memory());
    const Point corner{static_cast<double>(left), static_cast<double>(top)};
    for (const Detection& found : detect(height, width, network_, options, draw)) {
      faces.push_back(moved(face_of(found, per_x, per_y), {1.0, corner}));
    }
    return faces;
  }

  // From the photo to a part of this, whose pixels are drawn `scale` times as large: borders stay on borders.
  Similarity in_part(int left, int top, double scale) const {
    const Point half{0.5, 0.5}, corner{static_cast<double>(left), static_cast<double>(top)};
    return Similarity{scale, scale * (half - corner) - half}.after(from_photo_);
  }

  OwnedPixels turned_part(int left, int top, int wide, int high, int height, int width) const {
    const bool lies = tilt_ % 180 != 0;
    // Opposite corners, pixels that belong to the part.
    const Similarity back = from_photo_.inverse();
    const Point one = back({static_cast<double>(left), static_cast<double>(top)});
    const Point other = back({left + wide - 1.0, top + high - 1.0});
    const auto x = static_cast<int>(std::lround(std::min(one.real(), other.real())));
    const auto y = static_cast<int>(std::lround(std::min(one.imag(), other.imag())));
    const OwnedPixels part = resized(photo_.part(x, y, lies ? high : wide, lies ? wide : high), lies ? width : height,
                                     lies ? height : width, memory());
    return turned(part.pixels(), 360 - tilt_, memory());
  }

  // A face as the detector sees it at its best size, if it then sees it.
  Face seen_well(const Face& face, double scale) const {
    const double size = face.size() * scale, better = std::min(kSecondLook / face.size(), kMostUpscaling);
    if ((size >= kLeastWellSeen && size <= kMostWellSeen) || better == scale) return face;
    const auto inside = [](double place, int side) { return static_cast<int>(std::clamp(place, 0.0, double(side))); };
    const int left = inside(face.left - face.width * kMargin, width_);
    const int top = inside(face.top - face.height * kMargin, height_);
    const int right = inside(face.left + face.width * (1 + kMargin) + 1, width_);
    const int bottom = inside(face.top + face.height * (1 + kMargin) + 1, height_);
    if (right <= left || bottom <= top) return face;
    // Boxes so long are no face's.
    if (scaled_side(std::max(right - left, bottom - top), better) > kMostSideOfParts) return face;
    Face best = face;
    double most = kSameFace;
    for (const Face& found : look(left, top, right - left, bottom - top, better, blended_)) {
      const double same = overlap(found, face);
      if (same > most) best = found, most = same;
    }
    return best;
  }

  // A face as the detector sees it when its tilt is taken away, if it then is surer of it.
  Face seen_along_tilt(Face face) const {
    for (int i = 0; i < kLooksAlongTilt && std::abs(face.tilt()) > kTilted; ++i) {
      const double scale = std::min(kSecondLook / face.size(), kMostUpscaling);
      const int side = std::max(1, static_cast<int>(std::lround(face.size() * scale * kAround)));
      const Point turn = scale * turn_of(-face.tilt());
      const Similarity to_part = {turn, Point{(side - 1) / 2.0, (side - 1) / 2.0} - turn * face.middle()};
      const auto draw = [&](std::uint8_t* out, std::ptrdiff_t stride) {
        const OwnedPixels part = warped(photo_, to_part.after(from_photo_), side, side, memory());
        resize(part.pixels(), side, side, out, stride, memory());
      };
      const Similarity back = to_part.inverse();
      std::optional<Face> better;
      for (const Detection& found : detect(side, side, network_, blended_, draw)) {
        const Face seen = moved(face_of(found, 1.0, 1.0), back);
        const bool best = !better || seen.score > better->score;
        if (best && distance(seen, face) < kSamePlace) better = seen;
      }
      if (!better || better->score <= face.score) break;
      face = *better;
    }
    return face;
  }

  Pixels photo_;
  int tilt_;
  DetectorNetwork& network_;
  DetectionOptions options_, blended_;
  int width_, height_;
  Similarity from_photo_;
};

}  // namespace

std::pmr::vector<Detection> detect(const Pixels& image, DetectorNetwork& network, const DetectionOptions& options) {
  return detect(image.height, image.width, network, options, [&](std::uint8_t* out, std::ptrdiff_t stride) {
    resize(image, image.height, image.width, out, stride, network.memory());
  });
}

Faces find_faces(const Pixels& photo, DetectorNetwork& network, const SearchOptions& options) {
  struct {
    const Pixels& photo;
    DetectorNetwork& network;
    const SearchOptions& options;
  } const all = {photo, network, options};
  // One reference fits into a std::function, which takes memory of the heap for more.
  const auto look = [&all](int tilt) {
    return Straightened(all.photo, tilt, all.network, all.options.least_score).faces(all.options.upright);
  };
  Faces faces = options.upright ? faces_of_best_way_up(look, network.memory()) : look(0);
  for (Face& face : faces) {
    if (face.doubt == Doubt::kNone) face.doubt = implausible(face);
  }
  sort_stably(faces, [](const Face& a, const Face& b) {
    const bool a_doubtful = a.doubt != Doubt::kNone, b_doubtful = b.doubt != Doubt::kNone;
    return a_doubtful != b_doubtful ? b_doubtful : a.prominence() > b.prominence();
  });
  return faces;
}

}  // namespace pnf
