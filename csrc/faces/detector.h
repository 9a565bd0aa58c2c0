// Finding the faces of photos with YuNet, whatever their size, and whichever way up the photo is.
//
// Sizes. YuNet finds faces of 16 to 400 pixels in what it is given, so a photo is scaled for it; and its landmarks are best
// on faces of about 200 pixels, so smaller and larger ones are looked at again, alone.
//
// way_up.h tells which way up a photo is. A face that is seen tilted is looked at again along its tilt.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "faces/detections.h"
#include "faces/face.h"
#include "faces/pixels.h"

namespace pnf {

// A lowered YuNet for images of any size, which it sees at one size; see plan/resize.h.
struct DetectorNetwork {
  std::span<const std::int32_t> program;
  std::span<const float> weights;
  int threads = 1;
};

// The faces of an image as YuNet sees it, with black to the right and below up to multiples of 32; the best scores first.
// Throws what PreparedProgram throws, and std::invalid_argument if the program is no face detector's.
std::vector<Detection> detect(const Pixels& image, const DetectorNetwork& network, const DetectionOptions& options);

struct SearchOptions {
  float least_score = 0.7f;
  bool upright = true;  // whether to find out which way up the photo is and to look along the tilt of faces
};

// The faces of a photo, in its coordinates, the most prominent first, but doubtful ones last. Throws as detect().
std::vector<Face> find_faces(const Pixels& photo, const DetectorNetwork& network, const SearchOptions& options);

}  // namespace pnf
