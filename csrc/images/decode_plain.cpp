// BMP and PPM, which are hardly encoded.
#include <algorithm>

#include "images/decoders.h"

namespace pocketnet::images {

Pixels decode_bmp(View file, const ImageHeader& header) {
  const Reader reader(file, "BMP", true);
  const std::size_t start = reader.four(10);
  const std::size_t palette = 14 + std::size_t{reader.four(14)};
  const std::size_t bits = reader.two(28);
  const std::uint32_t stated = reader.four(46);
  const std::size_t colors = bits > 8 ? 0 : std::min<std::size_t>(stated != 0 ? stated : 1u << bits, 256);
  // The fourth byte is alpha where the header says so, and nothing otherwise.
  const bool alpha = reader.four(30) == 3 && reader.four(14) >= 56 && reader.four(66) == 0xff000000;
  const bool top_down = static_cast<std::int32_t>(reader.four(22)) < 0;
  Pixels pixels(header, alpha ? 4 : 3);
  const std::size_t stride = (static_cast<std::size_t>(pixels.width) * bits + 31) / 32 * 4;
  for (int y = 0; y < pixels.height; ++y) {
    const std::size_t row = start + stride * (top_down ? y : pixels.height - 1 - y);
    std::uint8_t* out = pixels.row(y);
    for (std::size_t x = 0; x < static_cast<std::size_t>(pixels.width); ++x, out += pixels.channels) {
      std::size_t at = row + x * bits / 8;
      if (bits <= 8) {
        const std::size_t index = file[at] >> (8 - bits - x * bits % 8) & ((1u << bits) - 1);
        if (index >= colors) {
          std::fill_n(out, 3, std::uint8_t{0});
          continue;
        }
        at = palette + 4 * index;
      }
      for (int c = 0; c < 3; ++c) out[c] = file[at + 2 - c];
      if (alpha) out[3] = file[at + 3];
    }
  }
  return pixels;
}

Pixels decode_ppm(View file, const ImageHeader& header) {
  const PpmHeader ppm = ppm_header(file);
  Pixels pixels(header, ppm.channels);
  const int width = ppm.most > 255 ? 2 : 1;
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    const std::size_t at = ppm.start + i * width;
    const std::uint32_t value = width == 2 ? std::uint32_t{file[at]} << 8 | file[at + 1] : file[at];
    pixels.values[i] = static_cast<std::uint8_t>(std::min((value * 255 + ppm.most / 2) / ppm.most, 255u));
  }
  return pixels;
}

}  // namespace pocketnet::images
