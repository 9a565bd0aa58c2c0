// Faces from the maps of YuNet.
//
// Three maps, of strides 8, 16 and 32, one behind another, each [height / stride][width / stride][16] floats: the logits of
// class and objectness; the box's centre from the place, in strides, and the logarithms of its sides, in strides; and five
// landmarks from the place, in strides. A face's score is the geometric mean of the two probabilities. Of faces whose boxes
// overlap, the one of the best score stays.
#pragma once
#include <memory_resource>
#include <vector>

namespace pnf {

inline constexpr int kDetectorStrides[] = {8, 16, 32};
inline constexpr int kDetectorChannels = 16;

// In pixels, the centre of the first one at (0, 0).
struct Detection {
  float left, top, width, height;
  float landmarks[10];  // x and y of each
  float score;
};

inline constexpr double kAlike = 0.7, kSharpness = 10.0;

struct DetectionOptions {
  float least_score = 0.7f;
  float most_overlap = 0.3f;   // of two faces: intersection over union of their boxes, in whole pixels
  int most_candidates = 1000;  // of those of the best scores
  // Whether box and landmarks are the mean of those places that see the face alike (kAlike), weighted by their scores to the
  // power kSharpness. Of places that are about as sure, a grey value here and there decides which is the surest, and
  // landmarks of single places differ by some hundredths of the face.
  bool blend = false;
};

// Best scores first, in `memory`, as what is needed meanwhile. `height` and `width` are of the image, multiples of 32.
std::pmr::vector<Detection> detections(const float* maps, int height, int width, const DetectionOptions& options,
                                       std::pmr::memory_resource* memory = std::pmr::get_default_resource());

}  // namespace pnf
