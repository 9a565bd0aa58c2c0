// Any bytes as an image file: it is refused in words, or gives the pixels that it states.
#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "images/image.h"
#include "require.h"

namespace {

constexpr std::uint8_t kPng[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

// A PNG whose chunks, as far as their lengths can be followed, end with their CRC-32: wrong ones would keep every changed
// input out.
std::vector<std::uint8_t> with_checksums(std::span<const std::uint8_t> data) {
  std::vector<std::uint8_t> file(data.begin(), data.end());
  if (file.size() < sizeof kPng || !std::equal(std::begin(kPng), std::end(kPng), file.begin())) return file;
  std::size_t at = sizeof kPng;
  while (at + 12 <= file.size()) {
    std::size_t length = 0;
    for (std::size_t place = 0; place < 4; ++place) length = length << 8 | file[at + place];
    if (length > file.size() - at - 12) break;
    const std::size_t end = at + 8 + length;
    const auto sum = crc32(0, file.data() + at + 4, static_cast<uInt>(length + 4));
    for (std::size_t place = 0; place < 4; ++place) {
      file[end + place] = static_cast<std::uint8_t>(sum >> (8 * (3 - place)));
    }
    at = end + 4;
  }
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace pocketnet::images;
  ImageLimits limits;
  limits.pixels = 1 << 20;
  limits.bytes = 1 << 20;
  try {
    const Image image = decode_image(with_checksums({data, size}), limits);
    REQUIRE(image.height > 0 && image.width > 0);
    REQUIRE(static_cast<std::uint64_t>(image.height) * static_cast<std::uint64_t>(image.width) <= limits.pixels);
    REQUIRE(image.rgb.size() ==
            std::size_t{3} * static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width));
  } catch (const ImageError& error) {
    const std::string why = error.what();
    REQUIRE(!why.empty() && why.find('\n') == std::string::npos);
  }
  return 0;
}
