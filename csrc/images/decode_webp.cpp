#include <webp/decode.h>

#include "images/decoders.h"

namespace pocketnet::images {

Pixels decode_webp(View file, const ImageHeader& header) {
  Pixels pixels(header, 4);
  if (WebPDecodeRGBAInto(file.data(), file.size(), pixels.values.get(), pixels.size(), 4 * pixels.width) == nullptr) {
    throw Damaged("the WebP's picture is cut or broken");
  }
  return pixels;
}

}  // namespace pocketnet::images
