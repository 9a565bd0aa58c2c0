// The faces of photos, by a file that finds them itself.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "decisions.h"
#include "image.h"
#include "network.h"

// As JSON: of each photo its faces, and of the most prominent faces of any two photos whether they are one person's.
// Throws std::runtime_error when a photo cannot be read.
std::string faces_as_json(Network& network, const std::vector<std::string>& photos, const ImageLimits& limits,
                          const std::optional<Decider>& by);
