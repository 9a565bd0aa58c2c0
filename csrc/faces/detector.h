// Finding the faces of photos with YuNet, whatever their size, and whichever way up the photo is.
//
// Sizes. YuNet finds faces of 16 to 400 pixels in what it is given, so a photo is scaled for it; and its landmarks are best
// on faces of about 200 pixels, so smaller and larger ones are looked at again, alone.
//
// way_up.h tells which way up a photo is. A face that is seen tilted is looked at again along its tilt.
#pragma once
#include <vector>

#include "faces/detections.h"
#include "faces/detector_network.h"
#include "faces/face.h"
#include "faces/pixels.h"

namespace pnf {

// The faces of an image as YuNet sees it, with black to the right and below up to multiples of 32; the best scores first.
// Throws what the network throws. The result is in the network's memory.
std::pmr::vector<Detection> detect(const Pixels& image, DetectorNetwork& network, const DetectionOptions& options);

// The largest images that a detector is given: of whole photos, and of parts of them. Smaller photos are not enlarged beyond
// the latter.
inline constexpr int kMostSideOfPhotos = 1920, kMostSideOfParts = 640;

struct SearchOptions {
  float least_score = 0.7f;
  bool upright = true;  // whether to find out which way up the photo is and to look along the tilt of faces
};

// The faces of a photo, in its coordinates, the most prominent first, but doubtful ones last. Throws as detect().
Faces find_faces(const Pixels& photo, DetectorNetwork& network, const SearchOptions& options);

}  // namespace pnf
