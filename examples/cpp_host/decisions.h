// Whether two faces are one person's, by the thresholds that a file carries.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "hosting/calibration.h"
#include "output.h"

struct Decider {
  pocketnet::hosting::CalibratedPoint point;
  bool flip = false;    // whether for embeddings with those of the mirror images added
  bool chosen = false;  // whether by --far
};

// Of a file with these metadata, or nothing if it carries no threshold. Throws std::runtime_error, naming the file, when
// `far` is asked for and the file has no threshold for it.
std::optional<Decider> decider(const std::string& file, const pocketnet::hosting::Metadata& metadata,
                               const std::optional<double>& far);

// [N, N] of embeddings [N, D] of any length.
at::Tensor cosines(const at::Tensor& embedding);

// The threshold, what the cosines are of, and each pair of the faces that `names` number.
Json decisions(const Decider& by, const at::Tensor& similarity, const std::vector<std::size_t>& names,
               const std::string& about);
