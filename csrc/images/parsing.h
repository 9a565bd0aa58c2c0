// How the headers of this room read a file, and what they throw to each other; image.cpp makes whole sentences of it.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "images/image_header.h"

namespace pocketnet::images {

using Bytes = std::vector<std::uint8_t>;
using View = std::span<const std::uint8_t>;

// Segments, chunks, boxes or strips of one file; more would be there only to cost time.
inline constexpr int kMaxParts = 10000;

// Bytes between two segments of a JPEG that are passed over.
inline constexpr std::size_t kMaxStray = 65536;

// Why an image file is broken.
struct Damaged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a file is instead of an image that is read, as in "a GIF image".
struct Unread : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Reads numbers of a view and throws Damaged where it ends.
class Reader {
 public:
  Reader(View data, std::string kind, bool little = false) : data_(data), kind_(std::move(kind)), little_(little) {}

  std::uint64_t number(std::size_t at, int width) const;
  std::uint8_t byte(std::size_t at) const { return static_cast<std::uint8_t>(number(at, 1)); }
  std::uint32_t two(std::size_t at) const { return static_cast<std::uint32_t>(number(at, 2)); }
  std::uint32_t three(std::size_t at) const { return static_cast<std::uint32_t>(number(at, 3)); }
  std::uint32_t four(std::size_t at) const { return static_cast<std::uint32_t>(number(at, 4)); }
  bool has(std::size_t at, std::string_view text) const;
  std::size_t size() const { return data_.size(); }
  [[noreturn]] void damaged(const std::string& why) const { throw Damaged("the " + kind_ + " " + why); }

 private:
  View data_;
  std::string kind_;
  bool little_;
};

// The first bytes of a file, at most so many.
std::string_view text_of(View data, std::size_t most);
bool starts(View data, std::string_view mark);

// The kind by the first bytes, if it is one that is read.
std::optional<ImageKind> image_kind(View data);

// What a file of no such kind is, as in "a GIF image".
std::string other_kind(View data);

// As read_header(), but throws Unread or Damaged.
ImageHeader parse_header(View data);

ImageHeader sized(ImageKind kind, std::uint64_t height, std::uint64_t width, int orientation = 1);

// Of an ISO base media file: the major brand and the compatible ones. Of another file nothing.
std::vector<std::string_view> iso_brands(View data);
ImageHeader avif_header(View data);

bool is_little_endian_tiff(View data);
ImageHeader tiff_header(View data);

// The orientation in an EXIF block or the first directory of a TIFF; 1 if it makes no sense.
int exif_orientation(View exif);

struct PpmHeader {
  std::uint64_t width = 0;
  std::uint64_t height = 0;
  std::uint32_t most = 0;  // the largest value
  std::size_t start = 0;   // of the pixels
  int channels = 0;
};
PpmHeader ppm_header(View data);

// Where the next marker of a JPEG is, or the end of the file if there is none near by.
std::size_t next_jpeg_marker(View data, std::size_t at);

}  // namespace pocketnet::images
