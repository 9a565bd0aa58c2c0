// Any bytes as an image file: it is refused in words, or gives the pixels that it states.
#include <cstdint>
#include <string>

#include "images/image.h"
#include "require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace pocketnet::images;
  ImageLimits limits;
  limits.pixels = 1 << 20;
  limits.bytes = 1 << 20;
  try {
    const Image image = decode_image({data, size}, limits);
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
