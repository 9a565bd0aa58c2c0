// Image files as pixels: JPEG, PNG, WebP, AVIF, TIFF, BMP, and binary PGM and PPM, told apart by their first bytes, as
// pocketnet_fast reads them in Python: upright by EXIF (or irot and imir), transparency on white, 16 bits rounded to 8,
// CMYK converted. Any thread may read.
#pragma once
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace pocketnet::images {

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

enum class Refusal {
  kUnread,         // another kind of file than those that are read, or one that this program was built without
  kDamaged,        // truncated, broken, or stating what it does not hold
  kTooManyPixels,  // than the limits allow
  kTooManyBytes,
  kMemory,  // more is needed than there is
  kFile,    // there is no such file, or it cannot be opened or read
};

// Why an image is not read, in one line. Of an image in memory it has no subject, as in "is a GIF image; expected JPEG,
// PNG, BMP or binary PPM": whoever knows what to call the image puts it in front.
class ImageError : public std::runtime_error {
 public:
  ImageError(Refusal refusal, const std::string& why) : std::runtime_error(why), refusal_(refusal) {}
  Refusal refusal() const { return refusal_; }

 private:
  Refusal refusal_;
};

// Throws ImageError, without a name for the image.
Image decode_image(std::span<const std::uint8_t> file, const ImageLimits& limits);

// Throws ImageError, which names the file.
Image read_image(const std::string& path, const ImageLimits& limits);

// The kinds that this program was built to read, as in "JPEG, PNG, BMP or binary PPM".
std::string readable_kinds();

}  // namespace pocketnet::images
