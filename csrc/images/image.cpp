#include "images/image.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>

#include "images/decoders.h"

namespace pocketnet::images {
namespace {

constexpr std::size_t kHead = 65536;

std::uint64_t limit(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  const bool digits = std::all_of(text, text + std::strlen(text), [](char c) { return c >= '0' && c <= '9'; });
  errno = 0;
  const std::uint64_t value = digits ? std::strtoull(text, nullptr, 10) : 0;
  if (value < 1 || errno != 0) {
    throw std::runtime_error(std::string(variable) + " is '" + text + "'; expected a whole number of at least 1");
  }
  return value;
}

// What body() returns; what it throws of the file, as whole sentences.
template <typename Body>
auto told(Body body) {
  try {
    return body();
  } catch (const Unread& error) {
    throw ImageError(Refusal::kUnread, std::string("is ") + error.what() + "; expected " + readable_kinds());
  } catch (const Damaged& error) {
    throw ImageError(Refusal::kDamaged, std::string("is damaged: ") + error.what());
  } catch (const std::bad_alloc&) {
    throw ImageError(Refusal::kMemory, "needs more memory than there is");
  }
}

// Refuses a file that is too large, of `size` bytes, by its first ones. Another kind of file is called that, however large
// it is.
[[noreturn]] void refuse_bytes(View file, const std::string& size, const ImageLimits& limits) {
  if (!image_kind(file)) throw Unread(other_kind(file));
  throw ImageError(Refusal::kTooManyBytes,
                   "has " + size + " bytes; at most " + std::to_string(limits.bytes) + " are read");
}

Bytes read_file(const std::string& path, const ImageLimits& limits) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) throw ImageError(Refusal::kFile, "is a folder, not an image file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ImageError(Refusal::kFile, "cannot be opened");
  const bool regular = std::filesystem::is_regular_file(path, error);
  const std::uint64_t size = regular ? std::filesystem::file_size(path, error) : 0;
  Bytes bytes;
  const std::uint64_t wanted = size > limits.bytes ? std::min<std::uint64_t>(kHead, size) : size;
  // What has no size, such as a pipe, is read up to the limit, piece by piece.
  do {
    const std::size_t before = bytes.size();
    const std::size_t piece = regular ? static_cast<std::size_t>(wanted) : kHead;
    bytes.resize(before + piece);
    file.read(reinterpret_cast<char*>(bytes.data() + before), static_cast<std::streamsize>(piece));
    bytes.resize(before + static_cast<std::size_t>(file.gcount()));
  } while (!regular && file && bytes.size() <= limits.bytes);
  if (file.bad()) throw ImageError(Refusal::kFile, "cannot be read");
  if (size > limits.bytes) refuse_bytes(bytes, std::to_string(size), limits);
  if (bytes.size() > limits.bytes) refuse_bytes(bytes, "more", limits);
  return bytes;
}

Pixels decode(View file, const ImageHeader& header) {
  switch (header.kind) {
    case ImageKind::kJpeg:
#ifdef PNF_IMAGES_JPEG
      return decode_jpeg(file, header);
#else
      break;
#endif
    case ImageKind::kPng:
#ifdef PNF_IMAGES_PNG
      return decode_png(file, header);
#else
      break;
#endif
    case ImageKind::kWebp:
#ifdef PNF_IMAGES_WEBP
      return decode_webp(file, header);
#else
      break;
#endif
    case ImageKind::kAvif:
#ifdef PNF_IMAGES_AVIF
      return decode_avif(file, header);
#else
      break;
#endif
    case ImageKind::kTiff:
#ifdef PNF_IMAGES_TIFF
      return decode_tiff(file, header);
#else
      break;
#endif
    case ImageKind::kBmp:
      return decode_bmp(file, header);
    case ImageKind::kPpm:
      return decode_ppm(file, header);
  }
  throw Unread(std::string("a ") + name_of(header.kind) +
               " image, and this program was built without a decoder for it");
}

// [height][width][3], transparency on white, which is what viewers put behind a cut-out portrait.
Bytes on_white(const Pixels& pixels) {
  const std::size_t count = pixels.count();
  const int colors = pixels.channels >= 3 ? 3 : 1;
  const bool alpha = pixels.channels % 2 == 0;
  Bytes rgb(3 * count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* in = pixels.values.get() + i * pixels.channels;
    const int opaque = alpha ? in[colors] : 255;
    for (int c = 0; c < 3; ++c) {
      const int value = in[colors == 3 ? c : 0];
      const int shown = pixels.premultiplied ? std::min(value + 255 - opaque, 255)
                                             : (value * opaque + 255 * (255 - opaque) + 127) / 255;
      rgb[3 * i + c] = static_cast<std::uint8_t>(shown);
    }
  }
  return rgb;
}

// Undoes the EXIF orientation: from 5 on the axes are exchanged; then mirrored or turned by 180 degrees.
Image upright(const Pixels& pixels, const Bytes& rgb) {
  const int orientation = pixels.orientation;
  const bool exchanged = orientation >= 5;
  const bool upside_down = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const bool mirrored = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  Image image;
  image.height = exchanged ? pixels.width : pixels.height;
  image.width = exchanged ? pixels.height : pixels.width;
  image.rgb.resize(rgb.size());
  std::uint8_t* out = image.rgb.data();
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x, out += 3) {
      const int row = upside_down ? image.height - 1 - y : y;
      const int column = mirrored ? image.width - 1 - x : x;
      const std::size_t from = exchanged ? static_cast<std::size_t>(column) * pixels.width + row
                                         : static_cast<std::size_t>(row) * pixels.width + column;
      std::copy_n(rgb.data() + 3 * from, 3, out);
    }
  }
  return image;
}

}  // namespace

ImageLimits ImageLimits::from_environment() {
  const ImageLimits defaults;
  return {limit("POCKETNET_MAX_PIXELS", defaults.pixels), limit("POCKETNET_MAX_BYTES", defaults.bytes)};
}

std::string readable_kinds() {
  std::string kinds;
#ifdef PNF_IMAGES_JPEG
  kinds += "JPEG, ";
#endif
#ifdef PNF_IMAGES_PNG
  kinds += "PNG, ";
#endif
#ifdef PNF_IMAGES_WEBP
  kinds += "WebP, ";
#endif
#ifdef PNF_IMAGES_AVIF
  kinds += "AVIF, ";
#endif
#ifdef PNF_IMAGES_TIFF
  kinds += "TIFF, ";
#endif
  return kinds + "BMP or binary PPM";
}

ImageHeader read_header(View file) {
  return told([&] { return parse_header(file); });
}

Image decode_image(View file, const ImageLimits& limits) {
  return told([&] {
    if (file.empty()) throw ImageError(Refusal::kUnread, "is empty; expected an image: " + readable_kinds());
    if (file.size() > limits.bytes) refuse_bytes(file, std::to_string(file.size()), limits);
    const ImageHeader header = parse_header(file);
    if (header.height > limits.pixels / header.width) {
      throw ImageError(Refusal::kTooManyPixels, "has " + std::to_string(header.width) + "x" +
                                                    std::to_string(header.height) + " pixels; at most " +
                                                    std::to_string(limits.pixels) + " are read");
    }
    const Pixels pixels = decode(file, header);
    return upright(pixels, on_white(pixels));
  });
}

Image read_image(const std::string& path, const ImageLimits& limits) {
  try {
    return decode_image(told([&] { return read_file(path, limits); }), limits);
  } catch (const ImageError& error) {
    std::string remedy;
    if (error.refusal() == Refusal::kTooManyPixels) remedy = " (POCKETNET_MAX_PIXELS changes that)";
    if (error.refusal() == Refusal::kTooManyBytes) remedy = " (POCKETNET_MAX_BYTES changes that)";
    throw ImageError(error.refusal(), path + ": " + error.what() + remedy);
  }
}

}  // namespace pocketnet::images
