// Whether two faces are one person's, by the thresholds that a file carries.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "calibration.h"

struct Decider {
  CalibratedPoint point;
  bool flip = false;    // whether for embeddings with those of the mirror images added
  bool chosen = false;  // whether by --far
};

// Of a file with these metadata, or nothing if it carries no threshold. Throws std::runtime_error, naming the file, when
// `far` is asked for and the file has no threshold for it.
std::optional<Decider> decider(const std::string& file, const std::string& metadata, const std::optional<double>& far);

// [N, N] of embeddings [N, D] of any length.
at::Tensor cosines(const at::Tensor& embedding);

// As JSON: the threshold, what the cosines are of, and each pair of the faces that `names` number.
std::string decisions_as_json(const Decider& by, const at::Tensor& similarity, const std::vector<std::size_t>& names,
                              const std::string& about);
