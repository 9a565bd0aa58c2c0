// A lowered YuNet at work, whoever gives it memory and threads.
#pragma once
#include <cstdint>
#include <memory_resource>

#include "faces/detections.h"

namespace pnf {

class DetectorNetwork {
 public:
  virtual ~DetectorNetwork() = default;

  // Where the next image is drawn: rows of `width` pixels without gaps; both sides are multiples of 32. Throws
  // std::invalid_argument if the program is damaged or no face detector's, or such an image is too large for it.
  virtual std::uint8_t* image(int height, int width) = 0;
  // What the network makes of it, as detections() reads it; until the next image.
  virtual const float* maps() = 0;
  // Of whatever else it takes to find faces.
  virtual std::pmr::memory_resource* memory() = 0;
};

// The size of a face detector's result.
inline std::int64_t size_of_maps(int height, int width) {
  std::int64_t size = 0;
  for (const int stride : kDetectorStrides) {
    size += std::int64_t{height / stride} * (width / stride) * kDetectorChannels;
  }
  return size;
}

}  // namespace pnf
