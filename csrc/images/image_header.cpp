#include "images/image_header.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "images/parsing.h"

namespace pocketnet::images {
namespace {

using std::string_view_literals::operator""sv;

ImageHeader jpeg_header(View data) {
  const Reader reader(data, "JPEG");
  std::size_t at = 2;
  for (int part = 0; part < kMaxParts; ++part) {
    at = next_jpeg_marker(data, at);
    if (at == data.size()) reader.damaged("ends before its picture (truncated?)");
    const int marker = data[at + 1];
    at += 2;
    const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (frame) {
      if (marker > 0xc2) throw Unread("a JPEG of a kind that is not read (lossless or arithmetic)");
      const int depth = reader.byte(at + 2);
      const int components = reader.byte(at + 7);
      if (depth != 8) throw Unread("a JPEG of " + std::to_string(depth) + " bits a channel");
      if (components != 1 && components != 3 && components != 4) {
        throw Unread("a JPEG of " + std::to_string(components) + " channels");
      }
      return sized(ImageKind::kJpeg, reader.two(at + 3), reader.two(at + 5));
    }
    if (marker >= 0xd8 && marker <= 0xda) reader.damaged("has no frame before its picture");
    if (marker > 0xbf && !(marker >= 0xd0 && marker <= 0xd7)) at += std::max<std::size_t>(reader.two(at), 2);
  }
  reader.damaged("has too many segments");
}

ImageHeader png_header(View data) {
  const Reader reader(data, "PNG");
  if (reader.has(12, "CgBI")) throw Unread("a PNG in Apple's own variant (CgBI)");
  const int depth = reader.byte(24);
  const int color = reader.byte(25);
  if (!reader.has(12, "IHDR") || reader.four(8) != 13) reader.damaged("does not start with its header");
  static const std::map<int, std::string_view> kDepths = {
      {0, "\1\2\4\10\20"}, {2, "\10\20"}, {3, "\1\2\4\10"}, {4, "\10\20"}, {6, "\10\20"}};
  const auto depths = kDepths.find(color);
  if (depths == kDepths.end() || depths->second.find(static_cast<char>(depth)) == std::string_view::npos ||
      reader.byte(26) != 0 || reader.byte(27) != 0 || reader.byte(28) > 1) {
    reader.damaged("has a header that makes no sense");
  }
  return sized(ImageKind::kPng, reader.four(20), reader.four(16));
}

ImageHeader webp_header(View data) {
  const Reader reader(data, "WebP", true);
  const std::size_t end = std::min<std::size_t>(data.size(), std::size_t{8} + reader.four(4));
  std::optional<std::pair<std::uint64_t, std::uint64_t>> canvas;
  std::optional<std::pair<std::uint64_t, std::uint64_t>> size;
  int orientation = 1;
  std::size_t at = 12;
  for (int part = 0; at + 8 <= end; ++part) {
    if (part == kMaxParts) reader.damaged("has too many chunks");
    const std::size_t length = reader.four(at + 4);
    const std::size_t content = at + 8;
    if (reader.has(at, "ANIM") || reader.has(at, "ANMF") || (reader.has(at, "VP8X") && (reader.byte(content) & 2))) {
      throw Unread("an animated WebP image");
    }
    if (reader.has(at, "VP8X")) {
      canvas = {1 + reader.three(content + 7), 1 + reader.three(content + 4)};
    } else if (reader.has(at, "VP8 ") && !size) {
      if (!reader.has(content + 3, "\x9d\x01\x2a")) reader.damaged("has a picture without start code");
      size = {reader.two(content + 8) & 0x3fff, reader.two(content + 6) & 0x3fff};
    } else if (reader.has(at, "VP8L") && !size) {
      const std::uint32_t bits = reader.four(content + 1);
      if (reader.byte(content) != 0x2f) reader.damaged("has a picture without signature");
      size = {1 + (bits >> 14 & 0x3fff), 1 + (bits & 0x3fff)};
    } else if (reader.has(at, "EXIF") && content < data.size()) {
      View exif = data.subspan(content, std::min(length, data.size() - content));
      if (starts(exif, "Exif\0\0"sv)) exif = exif.subspan(6);
      orientation = exif_orientation(exif);
    }
    if ((reader.has(at, "VP8 ") || reader.has(at, "VP8L")) && length > data.size() - content) {
      reader.damaged("ends inside its picture (truncated?)");
    }
    if (size && !canvas) break;
    at = content + length + length % 2;
  }
  if (!size) reader.damaged("has no picture (truncated?)");
  if (canvas && *canvas != *size) reader.damaged("states two sizes");
  return sized(ImageKind::kWebp, size->first, size->second, orientation);
}

ImageHeader bmp_header(View data) {
  const Reader reader(data, "BMP", true);
  const std::size_t pixels = reader.four(10);
  if (reader.four(14) < 40) throw Unread("a BMP of OS/2, which is not read");
  const std::int64_t width = static_cast<std::int32_t>(reader.four(18));
  const std::int64_t signed_height = static_cast<std::int32_t>(reader.four(22));
  const std::int64_t height = signed_height < 0 ? -signed_height : signed_height;
  const std::uint32_t bits = reader.two(28);
  const std::uint32_t packing = reader.four(30);
  const std::uint32_t colors = reader.four(46);
  const bool plain = packing == 0 && (bits == 1 || bits == 4 || bits == 8 || bits == 24 || bits == 32);
  if (!plain && !(packing == 3 && bits == 32)) {
    throw Unread("a BMP of " + std::to_string(bits) + " bits in compression " + std::to_string(packing) +
                 ", which is not read");
  }
  if (packing == 3 && (reader.four(54) != 0xff0000 || reader.four(58) != 0xff00 || reader.four(62) != 0xff)) {
    throw Unread("a BMP with channels in an unusual order, which is not read");
  }
  if (bits <= 8 && 14 + reader.four(14) + 4 * std::min(colors != 0 ? colors : 1u << bits, 256u) > pixels) {
    reader.damaged("has a palette that reaches into its picture");
  }
  if (width < 1 || height < 1) reader.damaged("states a size that there is not");
  const std::uint64_t row = (static_cast<std::uint64_t>(width) * bits + 31) / 32 * 4;
  if (pixels > data.size() || row > (data.size() - pixels) / static_cast<std::uint64_t>(height)) {
    reader.damaged("ends inside its picture (truncated?)");
  }
  return sized(ImageKind::kBmp, static_cast<std::uint64_t>(height), static_cast<std::uint64_t>(width));
}

ImageHeader pnm_header(View data) {
  const PpmHeader header = ppm_header(data);
  const std::uint64_t pixel = header.channels * (header.most > 255 ? 2 : 1);
  if (header.width * header.height > (data.size() - header.start) / pixel) {
    throw Damaged("the PPM ends inside its picture (truncated?)");
  }
  return sized(ImageKind::kPpm, header.height, header.width);
}

}  // namespace

std::string_view text_of(View data, std::size_t most) {
  return {reinterpret_cast<const char*>(data.data()), std::min(data.size(), most)};
}

bool starts(View data, std::string_view mark) { return text_of(data, mark.size()) == mark; }

ImageHeader sized(ImageKind kind, std::uint64_t height, std::uint64_t width, int orientation) {
  return {kind, height, width, orientation, kUnstated};
}

const char* name_of(ImageKind kind) {
  constexpr const char* kNames[] = {"JPEG", "PNG", "WebP", "AVIF", "TIFF", "BMP", "PPM"};
  return kNames[static_cast<int>(kind)];
}

std::uint64_t Reader::number(std::size_t at, int width) const {
  if (at > data_.size() || data_.size() - at < static_cast<std::size_t>(width)) {
    damaged("ends inside its header (truncated?)");
  }
  std::uint64_t value = 0;
  for (int i = 0; i < width; ++i) value = value << 8 | data_[at + (little_ ? width - 1 - i : i)];
  return value;
}

bool Reader::has(std::size_t at, std::string_view text) const {
  return at <= data_.size() && starts(data_.subspan(at), text);
}

int exif_orientation(View exif) {
  try {
    const Reader reader(exif, "EXIF", is_little_endian_tiff(exif));
    const std::size_t start = reader.four(4);
    for (int entry = 0, entries = reader.two(start); entry < entries; ++entry) {
      const std::size_t at = start + 2 + 12 * static_cast<std::size_t>(entry);
      const int type = reader.two(at + 2);
      const std::uint32_t count = reader.four(at + 4);
      reader.four(at + 8);
      if (reader.two(at) != 0x0112) continue;
      const int width = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;
      const std::uint64_t value = width != 0 && count != 0 ? reader.number(at + 8, width) : 1;
      return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
  } catch (const Damaged&) {
    return 1;
  }
  return 1;
}

std::size_t next_jpeg_marker(View data, std::size_t at) {
  const std::size_t end = std::min(data.size(), at + kMaxStray);
  for (; at + 1 < end; ++at) {
    if (data[at] == 0xff && data[at + 1] != 0x00 && data[at + 1] != 0xff) return at;
  }
  return data.size();
}

PpmHeader ppm_header(View data) {
  PpmHeader header;
  header.channels = starts(data, "P6") ? 3 : 1;
  std::size_t at = 2;
  const auto number = [&]() -> std::uint64_t {
    const std::size_t before = at;
    while (at < data.size() && at < 8192 && (std::isspace(data[at]) || data[at] == '#')) {
      if (data[at] == '#') {
        while (at < data.size() && data[at] != '\n') ++at;
      } else {
        ++at;
      }
    }
    std::uint64_t value = 0;
    const std::size_t start = at;
    while (at < data.size() && std::isdigit(data[at]) && at - start < 9) value = value * 10 + (data[at++] - '0');
    if (at == start || start == before) throw Damaged("the PPM's header makes no sense");
    return value;
  };
  header.width = number();
  header.height = number();
  header.most = static_cast<std::uint32_t>(number());
  if (at >= data.size() || !std::isspace(data[at])) throw Damaged("the PPM's header makes no sense");
  header.start = at + 1;
  if (header.most < 1 || header.most > 65535) {
    throw Damaged("the PPM's largest value is " + std::to_string(header.most) + "; expected 1 to 65535");
  }
  return header;
}

std::optional<ImageKind> image_kind(View data) {
  if (starts(data, "\xff\xd8\xff"sv)) return ImageKind::kJpeg;
  if (starts(data, "\x89PNG\r\n\x1a\n"sv)) return ImageKind::kPng;
  if (starts(data, "II*\0"sv) || starts(data, "MM\0*"sv)) return ImageKind::kTiff;
  if (starts(data, "BM"sv)) return ImageKind::kBmp;
  if (starts(data, "RIFF"sv) && text_of(data, 12).substr(std::min<std::size_t>(8, data.size())) == "WEBP") {
    return ImageKind::kWebp;
  }
  if ((starts(data, "P5"sv) || starts(data, "P6"sv)) && data.size() > 2 && std::isspace(data[2])) {
    return ImageKind::kPpm;
  }
  for (const std::string_view brand : iso_brands(data)) {
    if (brand == "avif") return ImageKind::kAvif;
  }
  return std::nullopt;
}

ImageHeader parse_header(View data) {
  const std::optional<ImageKind> kind = image_kind(data);
  if (!kind) throw Unread(other_kind(data));
  // In the order of ImageKind.
  constexpr ImageHeader (*kReaders[])(View) = {jpeg_header, png_header, webp_header, avif_header,
                                               tiff_header, bmp_header, pnm_header};
  const ImageHeader header = kReaders[static_cast<int>(*kind)](data);
  if (header.height < 1 || header.width < 1) {
    throw Damaged(std::string("the ") + name_of(*kind) + " states " + std::to_string(header.width) + "x" +
                  std::to_string(header.height) + " pixels");
  }
  return header;
}

}  // namespace pocketnet::images
