// The check that an exported file carries of itself (its record pocketnet_fast_check.json): a picture of a rendered face,
// and what the exported file made of it where it was written.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace pocketnet::hosting {

struct Check {
  std::vector<std::uint8_t> png;  // an aligned crop, or of a file that takes photos a photo with one face
  std::vector<float> embedding;   // of length 1
  double least_cosine = 0;
};

// Throws std::runtime_error, saying what is wrong.
Check parse_check(const std::string& text);

}  // namespace pocketnet::hosting
