#include "image.h"

#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
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
  if (std::filesystem::is_directory(path)) fail(path, "is a folder");
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path, "cannot be opened");
  Bytes bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) fail(path, "cannot be read");
  return bytes;
}

// Before memory is taken for the pixels: a few damaged bytes can announce gigabytes.
void resize(Image& image, const std::string& path, std::uint64_t height, std::uint64_t width) {
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide) {
    fail(path, "is " + std::to_string(width) + "x" + std::to_string(height) + "; sides of 1 to " +
                   std::to_string(kMaxSide) + " are read");
  }
  image.height = static_cast<int>(height);
  image.width = static_cast<int>(width);
  image.rgb.resize(std::size_t{3} * height * width);
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
  const int width = number();
  const int height = number();
  if (number() != 255) fail(path, "PPM files must have 8 bits a colour");
  ++at;  // the one white space that ends the header
  if (bytes.size() < at || (bytes.size() - at) / 3 < static_cast<std::size_t>(width) * height) {
    fail(path, "truncated PPM file");
  }
  Image image;
  resize(image, path, height, width);
  std::memcpy(image.rgb.data(), bytes.data() + at, image.rgb.size());
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

// The escape from an error leaves this function without running destructors, so everything that has one, or that
// changes on the way, belongs to the caller.
bool decode_jpeg(const Bytes& bytes, const std::string& path, jpeg_decompress_struct& info, JpegErrors& errors,
                 Image& image) {
  if (setjmp(errors.escape) != 0) return false;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, bytes.data(), bytes.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  resize(image, path, info.output_height, info.output_width);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.rgb.data() + std::size_t{3} * info.output_width * info.output_scanline;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

Image read_jpeg(const std::string& path, const Bytes& bytes) {
  Image image;
  JpegErrors errors;
  jpeg_decompress_struct info = {};
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = jpeg_escape;
  errors.manager.emit_message = jpeg_warning;
  const auto release = [](jpeg_decompress_struct* decoder) { jpeg_destroy_decompress(decoder); };
  const std::unique_ptr<jpeg_decompress_struct, decltype(release)> owner(&info, release);
  if (!decode_jpeg(bytes, path, info, errors, image)) fail(path, std::string("damaged JPEG file: ") + errors.message);
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
  const std::unique_ptr<png_image, decltype(&png_image_free)> owner(&header, png_image_free);
  Image image;
  resize(image, path, header.height, header.width);
  const png_color background = {0, 0, 0};
  if (!png_image_finish_read(&header, &background, image.rgb.data(), 0, nullptr)) {
    fail(path, std::string("damaged PNG file: ") + header.message);
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
