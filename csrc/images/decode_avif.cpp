#include <avif/avif.h>

#include <memory>

#include "images/decoders.h"

namespace pocketnet::images {

Pixels decode_avif(View file, const ImageHeader& header) {
  const std::unique_ptr<avifDecoder, decltype(&avifDecoderDestroy)> decoder(avifDecoderCreate(), avifDecoderDestroy);
  if (!decoder) throw std::bad_alloc();
  decoder->maxThreads = 1;
  decoder->ignoreExif = AVIF_TRUE;
  decoder->ignoreXMP = AVIF_TRUE;
  const auto check = [](avifResult result) {
    if (result != AVIF_RESULT_OK) {
      throw Damaged(std::string("the AVIF cannot be decoded (truncated?): ") + avifResultToString(result));
    }
  };
  check(avifDecoderSetIOMemory(decoder.get(), file.data(), file.size()));
  check(avifDecoderParse(decoder.get()));
  if (decoder->imageCount > 1) throw Unread("an animated AVIF image");
  if (decoder->image->width != header.width || decoder->image->height != header.height) {
    throw Damaged("the AVIF states two sizes");
  }
  check(avifDecoderNextImage(decoder.get()));
  Pixels pixels(header, 4);
  avifRGBImage rgb;
  avifRGBImageSetDefaults(&rgb, decoder->image);
  rgb.format = AVIF_RGB_FORMAT_RGBA;
  rgb.depth = 8;
  rgb.pixels = pixels.values.get();
  rgb.rowBytes = static_cast<std::uint32_t>(4 * pixels.width);
  check(avifImageYUVToRGB(decoder->image, &rgb));
  return pixels;
}

}  // namespace pocketnet::images
