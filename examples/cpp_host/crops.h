// Aligned face crops, by a file that takes them.
#pragma once
#include <optional>

#include "decisions.h"
#include "hosting/exported_network.h"
#include "options.h"
#include "output.h"

// float32 [N, D], not normalised, of uint8 RGB [N, 112, 112, 3]; with `flip` the sums with those of the mirror images.
at::Tensor embed(pocketnet::hosting::ExportedNetwork& network, const at::Tensor& rgb, bool flip);

// What is printed of image files: embeddings, similarities, decisions and times. Throws ImageError when one cannot be
// read, and std::runtime_error when one is no crop.
Json crops_report(pocketnet::hosting::ExportedNetwork& network, const Options& options,
                  const std::optional<Decider>& by);

// Embeds a file of crops into another; what is printed of that. Throws std::runtime_error, naming the file.
Json embed_file(pocketnet::hosting::ExportedNetwork& network, const Options& options);
