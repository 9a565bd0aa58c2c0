// Five-point alignment: crops in which eyes, nose and mouth lie where networks expect them.
#pragma once
#include <span>

#include "faces/pixels.h"
#include "faces/similarity.h"

namespace pnf {

// Of the crop for which the template is stated.
inline constexpr int kCropSide = 112;
// Left and right eye, nose, left and right corner of the mouth, as seen in the crop.
inline constexpr Point kTemplate[5] = {
    {38.2946, 51.6963}, {73.5318, 51.5014}, {56.0252, 71.7366}, {41.5493, 92.3655}, {70.7299, 92.2041}};

// The similarity transform that maps the landmarks closest to the template, scaled to crops of side x side: Umeyama's
// least-squares estimate without reflection, which with points as complex numbers is a linear regression. Throws
// std::invalid_argument when a coordinate is not finite, the landmarks coincide, or nothing relates them to the template.
Similarity to_template(std::span<const Point, 5> landmarks, int side);

// The crop of side x side, bilinear, black where there is no photo, to `out`. Throws as to_template().
void align(const Pixels& photo, std::span<const Point, 5> landmarks, int side, std::uint8_t* out);

}  // namespace pnf
