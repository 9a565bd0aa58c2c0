#include "image.h"

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#ifdef CPP_HOST_JPEG
#include <csetjmp>
#include <cstdio>  // before jpeglib.h, which uses FILE

#include <jpeglib.h>
#endif
#ifdef CPP_HOST_PNG
#include <png.h>
#endif

namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr int kMaxSide = 16384;

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what);
}

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path, "cannot be opened");
  Bytes bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) fail(path, "cannot be read");
  return bytes;
}

// "P6 width height 255" and the pixels, with comments allowed between the words.
Image read_ppm(const std::string& path, const Bytes& bytes) {
  std::size_t at = 2;
  const auto number = [&]() {
    while (at < bytes.size() && (std::isspace(bytes[at]) || bytes[at] == '#')) {
      if (bytes[at] == '#') {
        while (at < bytes.size() && bytes[at] != '\n') ++at;
      } else {
        ++at;
      }
    }
    int value = 0;
    const std::size_t start = at;
    while (at < bytes.size() && std::isdigit(bytes[at]) && value <= kMaxSide) value = value * 10 + (bytes[at++] - '0');
    if (at == start) fail(path, "damaged PPM header");
    return value;
  };
  Image image;
  image.width = number();
  image.height = number();
  if (number() != 255 || image.width < 1 || image.height < 1 || image.width > kMaxSide || image.height > kMaxSide) {
    fail(path, "PPM files must have 8 bits a colour and sides of at most 16384");
  }
  ++at;  // the one white space that ends the header
  const std::size_t size = std::size_t{3} * image.width * image.height;
  if (bytes.size() < at + size) fail(path, "truncated PPM file");
  image.rgb.assign(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                   bytes.begin() + static_cast<std::ptrdiff_t>(at + size));
  return image;
}

#ifdef CPP_HOST_JPEG
struct JpegErrors {
  jpeg_error_mgr manager;
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

void jpeg_escape(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  info->err->format_message(info, errors->message);
  std::longjmp(errors->escape, 1);
}

// A truncated file is only a warning to libjpeg, which would fill the rest with grey.
void jpeg_warning(j_common_ptr info, int level) {
  if (level < 0) jpeg_escape(info);
}

Image read_jpeg(const std::string& path, const Bytes& bytes) {
  Image image;
  jpeg_decompress_struct info;
  JpegErrors errors;
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = jpeg_escape;
  errors.manager.emit_message = jpeg_warning;
  if (setjmp(errors.escape) != 0) {
    jpeg_destroy_decompress(&info);
    fail(path, std::string("damaged JPEG file: ") + errors.message);
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, bytes.data(), bytes.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  image.width = static_cast<int>(info.output_width);
  image.height = static_cast<int>(info.output_height);
  image.rgb.resize(std::size_t{3} * image.width * image.height);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.rgb.data() + std::size_t{3} * image.width * info.output_scanline;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return image;
}
#endif

#ifdef CPP_HOST_PNG
Image read_png(const std::string& path, const Bytes& bytes) {
  png_image header;
  std::memset(&header, 0, sizeof(header));
  header.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_memory(&header, bytes.data(), bytes.size())) {
    fail(path, std::string("damaged PNG file: ") + header.message);
  }
  header.format = PNG_FORMAT_RGB;
  Image image;
  image.width = static_cast<int>(header.width);
  image.height = static_cast<int>(header.height);
  image.rgb.resize(PNG_IMAGE_SIZE(header));
  const png_color background = {0, 0, 0};
  if (!png_image_finish_read(&header, &background, image.rgb.data(), 0, nullptr)) {
    const std::string message = header.message;
    png_image_free(&header);
    fail(path, "damaged PNG file: " + message);
  }
  return image;
}
#endif

}  // namespace

Image read_image(const std::string& path) {
  const Bytes bytes = read_file(path);
  const auto starts = [&](const char* mark, std::size_t size) {
    return bytes.size() >= size && std::memcmp(bytes.data(), mark, size) == 0;
  };
  if (starts("P6", 2)) return read_ppm(path, bytes);
  if (starts("\xff\xd8\xff", 3)) {
#ifdef CPP_HOST_JPEG
    return read_jpeg(path, bytes);
#else
    fail(path, "is a JPEG file, and this program was built without libjpeg (install libjpeg-dev, or use PPM)");
#endif
  }
  if (starts("\x89PNG\r\n\x1a\n", 8)) {
#ifdef CPP_HOST_PNG
    return read_png(path, bytes);
#else
    fail(path, "is a PNG file, and this program was built without libpng (install libpng-dev, or use PPM)");
#endif
  }
  fail(path, "is no JPEG, PNG or binary PPM file");
}
