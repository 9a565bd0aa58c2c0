#include <csetjmp>
#include <cstdio>  // before jpeglib.h, which uses FILE
#include <cstring>
#include <memory>

#include <jpeglib.h>

#include <jerror.h>

#include "images/decoders.h"
#include "images/jpeg_file.h"

namespace pocketnet::images {
namespace {

struct Errors {
  jpeg_error_mgr manager;
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

void escape(j_common_ptr info) {
  auto* errors = reinterpret_cast<Errors*>(info->err);
  info->err->format_message(info, errors->message);
  std::longjmp(errors->escape, 1);
}

// Broken codes and missing data are only warnings to libjpeg, which would fill the rest with grey. Bytes that are left
// over between a scan and its end do no harm.
void warn(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code != JWRN_EXTRANEOUS_DATA) escape(info);
}

// The escape from an error leaves this function without running destructors, so everything that has one, or that
// changes on the way, belongs to the caller.
bool decode(const JpegFile& file, int channels, jpeg_decompress_struct& info, Errors& errors, Pixels& pixels) {
  if (setjmp(errors.escape) != 0) return false;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, file.data.data(), file.data.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = pixels.row(static_cast<int>(info.output_scanline));
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

// Inks are stored inverted by every program that writes CMYK JPEG.
Pixels from_cmyk(const Pixels& inks, const ImageHeader& header) {
  Pixels rgb(header, 3);
  for (std::size_t i = 0; i < rgb.size() / 3; ++i) {
    const std::uint8_t* ink = inks.values.get() + 4 * i;
    for (int c = 0; c < 3; ++c) rgb.values[3 * i + c] = static_cast<std::uint8_t>((ink[c] * ink[3] + 127) / 255);
  }
  return rgb;
}

}  // namespace

Pixels decode_jpeg(View bytes, const ImageHeader& header) {
  const JpegFile file = check_jpeg(bytes);
  Pixels pixels(header, file.components);
  Errors errors = {};
  jpeg_decompress_struct info = {};
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = escape;
  errors.manager.emit_message = warn;
  const auto release = [](jpeg_decompress_struct* decoder) { jpeg_destroy_decompress(decoder); };
  const std::unique_ptr<jpeg_decompress_struct, decltype(release)> owner(&info, release);
  if (!decode(file, file.components, info, errors, pixels)) {
    constexpr const char* kPrefix = "Corrupt JPEG data: ";
    const char* message = errors.message;
    if (std::strncmp(message, kPrefix, std::strlen(kPrefix)) == 0) message += std::strlen(kPrefix);
    throw Damaged(std::strstr(message, "remature end") != nullptr ? "the JPEG ends inside its picture (truncated?)"
                                                                  : std::string("the JPEG is broken: ") + message);
  }
  if (file.components == 4) pixels = from_cmyk(pixels, header);
  pixels.orientation = file.orientation;
  return pixels;
}

}  // namespace pocketnet::images
