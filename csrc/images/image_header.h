// What an image file says of itself in its first bytes. Nothing is decoded here, so a file that announces gigabytes is
// known for it at the price of its header. The Python package has the same rules in data/image_header.py.
#pragma once
#include <cstdint>
#include <span>

namespace pocketnet::images {

enum class ImageKind { kJpeg, kPng, kWebp, kAvif, kTiff, kBmp, kPpm };

const char* name_of(ImageKind kind);

inline constexpr int kUnstated = -1;

struct ImageHeader {
  ImageKind kind = ImageKind::kJpeg;
  std::uint64_t height = 0;  // as stored, before any orientation is applied; at least 1
  std::uint64_t width = 0;
  int orientation = 1;  // as in EXIF; that of a JPEG or PNG stands further back
  // TIFF: what the channel behind the colours is, 0 anything, 1 or 2 alpha, with colours multiplied by it or not.
  int extra = kUnstated;
};

// Of a whole file. Throws ImageError as decode_image() does: Refusal::kUnread for another kind of file,
// Refusal::kDamaged for a header that is cut or makes no sense.
ImageHeader read_header(std::span<const std::uint8_t> file);

}  // namespace pocketnet::images
