#include <png.h>
#include <zlib.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>

#include "images/decoders.h"

namespace pocketnet::images {
namespace {

[[noreturn]] void damaged(const std::string& why) { throw Damaged("the PNG " + why); }

// What decoding needs of a file whose checksums hold.
struct PngFile {
  Bytes data;  // without chunks that do not concern the picture
  int orientation = 1;
};

PngFile check_png(View file, const ImageHeader& header) {
  const Reader reader(file, "PNG");
  PngFile found;
  found.data.assign(file.begin(), file.begin() + 8);
  std::uint64_t packed = 0;
  std::size_t at = 8;
  bool ended = false;
  for (int part = 0; !ended; ++part) {
    if (part == kMaxParts) damaged("has too many chunks");
    if (file.size() - at < 12) damaged("ends before its last chunk (truncated?)");
    const std::size_t length = reader.four(at);
    if (length > file.size() - at - 12) damaged("ends inside a chunk (truncated?)");
    const View content = file.subspan(at + 8, length);
    if (crc32(0, file.data() + at + 4, static_cast<uInt>(length + 4)) != reader.four(at + 8 + length)) {
      damaged("has a chunk that fails its checksum");
    }
    if (reader.has(at + 4, "acTL") && packed == 0) throw Unread("an animated PNG image");
    if (reader.has(at + 4, "eXIf")) found.orientation = exif_orientation(content);
    if (reader.has(at + 4, "IDAT")) packed += length;
    ended = reader.has(at + 4, "IEND");
    const bool kept = ended || reader.has(at + 4, "IHDR") || reader.has(at + 4, "PLTE") || reader.has(at + 4, "tRNS") ||
                      reader.has(at + 4, "IDAT");
    if (kept) {
      found.data.insert(found.data.end(), file.begin() + static_cast<std::ptrdiff_t>(at),
                        file.begin() + static_cast<std::ptrdiff_t>(at + 12 + length));
    }
    at += 12 + length;
  }
  constexpr int kChannels[] = {1, 0, 3, 1, 2, 0, 4};
  const std::uint64_t row = (header.width * kChannels[reader.byte(25)] * reader.byte(24) + 7) / 8;
  // One byte of deflate stands for at most 1032.
  if (row * header.height > 1032 * packed + 1024) damaged("holds less than the picture it states (truncated?)");
  return found;
}

struct Source {
  const Bytes& data;
  std::size_t at = 0;
};

struct Errors {
  std::jmp_buf escape;
  char message[128];
};

void escape(png_structp png, png_const_charp message) {
  auto* errors = static_cast<Errors*>(png_get_error_ptr(png));
  std::snprintf(errors->message, sizeof(errors->message), "%s", message);
  std::longjmp(errors->escape, 1);
}

void be_silent(png_structp, png_const_charp) {}

void read(png_structp png, png_bytep out, std::size_t size) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (source->data.size() - source->at < size) png_error(png, "the file ends early");
  std::memcpy(out, source->data.data() + source->at, size);
  source->at += size;
}

// RGBA rows of 8 bits. Left by longjmp on an error, so what has a destructor belongs to the caller.
bool decode(png_structp png, png_infop info, Errors& errors, Source& source, std::vector<png_bytep>& rows) {
  if (setjmp(errors.escape) != 0) return false;
  png_set_read_fn(png, &source, read);
  png_read_info(png, info);
  png_set_expand(png);
  png_set_scale_16(png);
  png_set_gray_to_rgb(png);
  png_set_add_alpha(png, 0xff, PNG_FILLER_AFTER);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  return true;
}

}  // namespace

Pixels decode_png(View bytes, const ImageHeader& header) {
  const PngFile file = check_png(bytes, header);
  Pixels pixels(header, 4);
  pixels.orientation = file.orientation;
  std::vector<png_bytep> rows;
  for (int y = 0; y < pixels.height; ++y) rows.push_back(pixels.row(y));
  Errors errors = {};
  Source source = {file.data};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &errors, escape, be_silent);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool done = false;
  if (info != nullptr) {
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);  // the caller has its own
    done = decode(png, info, errors, source, rows);
  }
  png_destroy_read_struct(&png, &info, nullptr);
  if (!done) damaged(std::string("cannot be decoded: ") + errors.message);
  return pixels;
}

}  // namespace pocketnet::images
