// From which cosine two embeddings are one person's: the thresholds that an exported file carries.
#pragma once
#include <optional>
#include <vector>

#include "hosting/metadata.h"

namespace pocketnet::hosting {

struct CalibratedPoint {
  double far = 0;  // the false accept rate asked for
  double threshold = 0;
};

struct Calibration {
  std::vector<CalibratedPoint> points;  // at least one
  double default_far = 0;
  bool flip = false;  // whether the embeddings must be the sums with those of the mirror images

  // The point of a rate, or without one the default's. Throws std::runtime_error, naming the rates that are carried.
  CalibratedPoint at(std::optional<double> far) const;
};

// What the metadata of an exported file say, if the file carries thresholds; files that were written with one threshold
// have one point. Throws std::runtime_error if they are damaged.
std::optional<Calibration> calibration_of(const Metadata& metadata);

}  // namespace pocketnet::hosting
