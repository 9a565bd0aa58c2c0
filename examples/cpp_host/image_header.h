// What an image file says of itself in its first bytes. Nothing is decoded here, so a file that announces gigabytes is
// known for it at the price of its header. The Python package has the same rules in data/image_header.py.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

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

// What a file is instead of an image that is read, as in "is a GIF image".
struct Unread : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class ImageKind { kJpeg, kPng, kWebp, kAvif, kTiff, kBmp, kPpm };

const char* name_of(ImageKind kind);

inline constexpr int kUnstated = -1;

struct ImageHeader {
  ImageKind kind = ImageKind::kJpeg;
  std::uint64_t height = 0;  // as stored, before any orientation is applied
  std::uint64_t width = 0;
  int orientation = 1;  // as in EXIF; that of a JPEG or PNG stands further back
  // TIFF: what the channel behind the colours is, 0 anything, 1 or 2 alpha, with colours multiplied by it or not.
  int extra = kUnstated;
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

// Throws Unread for another kind of file, Damaged for a header that is cut or makes no sense.
ImageHeader read_header(View data);

// The kind by the first bytes, if it is one that is read.
std::optional<ImageKind> image_kind(View data);

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
