// The faces of photos, by a file that finds them itself.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "decisions.h"
#include "hosting/exported_network.h"
#include "images/image.h"
#include "output.h"

// What is printed: of each photo its faces, and of the most prominent faces of any two photos whether they are one
// person's. Throws ImageError when a photo cannot be read.
Json photos_report(pocketnet::hosting::ExportedNetwork& network, const std::vector<std::string>& photos,
                   const pocketnet::images::ImageLimits& limits, const std::optional<Decider>& by);
