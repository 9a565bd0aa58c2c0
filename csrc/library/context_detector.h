// A model's face detector in the memory of one context.
#pragma once
#include <cstddef>
#include <vector>

#include "faces/detector_network.h"
#include "library/model.h"

namespace pnf::library {

// The largest side of an image that the detector is given for photos of at most this side.
int largest_detector_side(int photo_side);

// The detector's program for images of this size as one thread runs it, to `program`, by way of `words`. Throws
// std::invalid_argument as resize() does.
void detector_for(const NetworkFile& file, int height, int width, std::pmr::vector<std::int32_t>& words,
                  Program& program);

struct DetectorMemory {
  std::uint8_t* pixels;
  float* maps;
  float* work;
  std::size_t work_bytes;
  int largest_side;
};

class ContextDetector final : public DetectorNetwork {
 public:
  ContextDetector(const pocketnet_model& model, const DetectorMemory& memory, std::pmr::memory_resource* rest);

  // Of the photos that come.
  void set_bgr(bool bgr) { bgr_ = bgr; }

  std::uint8_t* image(int height, int width) override;
  const float* maps() override;
  std::pmr::memory_resource* memory() override { return rest_; }

 private:
  void prepare(int height, int width);

  const pocketnet_model& model_;
  const DetectorMemory memory_;
  std::pmr::memory_resource* const rest_;
  std::pmr::vector<std::int32_t> words_;
  Program program_;  // for an image of height_ x width_
  int height_ = 0, width_ = 0;
  bool bgr_ = false;
};

}  // namespace pnf::library
