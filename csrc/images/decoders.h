// One decoder a kind of image file. Each is given a file whose header was read and whose size was accepted, and throws
// Damaged or Unread.
#pragma once
#include <memory>

#include "images/parsing.h"

namespace pocketnet::images {

struct Pixels {
  int height = 0;
  int width = 0;
  int channels = 0;     // grey, grey and alpha, RGB, RGBA
  int orientation = 1;  // as in EXIF
  bool premultiplied = false;
  // [height][width][channels], not cleared: what is not written takes no memory, so a file that states more than it
  // holds costs little until that is found out.
  std::unique_ptr<std::uint8_t[]> values;

  Pixels(const ImageHeader& header, int channels_)
      : height(static_cast<int>(header.height)),
        width(static_cast<int>(header.width)),
        channels(channels_),
        orientation(header.orientation),
        values(std::make_unique_for_overwrite<std::uint8_t[]>(size())) {}

  std::size_t count() const { return static_cast<std::size_t>(height) * width; }
  std::size_t size() const { return count() * channels; }
  std::uint8_t* row(int y) { return values.get() + static_cast<std::size_t>(y) * width * channels; }
};

Pixels decode_jpeg(View file, const ImageHeader& header);
Pixels decode_png(View file, const ImageHeader& header);
Pixels decode_webp(View file, const ImageHeader& header);
Pixels decode_avif(View file, const ImageHeader& header);
Pixels decode_tiff(View file, const ImageHeader& header);
Pixels decode_bmp(View file, const ImageHeader& header);
Pixels decode_ppm(View file, const ImageHeader& header);

}  // namespace pocketnet::images
