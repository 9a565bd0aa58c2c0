#pragma once
#include <cstdint>
#include <string>
#include <vector>

struct Image {
  int height = 0;
  int width = 0;
  std::vector<std::uint8_t> rgb;  // [height][width][3]
};

// Reads a JPEG, PNG or binary PPM file by its first bytes. Throws std::runtime_error, naming the file, when it cannot
// be read, is damaged, or is of a kind that this program was built without.
Image read_image(const std::string& path);
