#pragma once
#include <cstdint>
#include <string>
#include <vector>

struct Image {
  int height = 0;
  int width = 0;
  std::vector<std::uint8_t> rgb;  // [height][width][3]
};

// What is larger is refused by its header, before anything is decoded.
struct ImageLimits {
  std::uint64_t pixels = 50'000'000;
  std::uint64_t bytes = 64 << 20;  // of the file

  // The defaults, or what POCKETNET_MAX_PIXELS and POCKETNET_MAX_BYTES say. Throws std::runtime_error if one of them
  // is no whole number of at least 1.
  static ImageLimits from_environment();
};

// Reads a JPEG, PNG, WebP, AVIF, TIFF, BMP, or binary PGM or PPM file, by its first bytes, as pocketnet_fast reads it in
// Python: upright by EXIF (or irot and imir), transparency on white, 16 bits rounded to 8, CMYK converted. Throws
// std::runtime_error, one line that names the file, when it cannot be read, is too large, damaged or truncated, or of a
// kind that is not read or that this program was built without.
Image read_image(const std::string& path, const ImageLimits& limits);

// The kinds that this program was built to read, as in "JPEG, PNG, BMP, PPM".
std::string readable_kinds();
