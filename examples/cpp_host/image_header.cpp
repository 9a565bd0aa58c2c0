#include "image_header.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <string_view>

namespace {

using std::string_view_literals::operator""sv;

std::string_view text_of(View data, std::size_t most) {
  return {reinterpret_cast<const char*>(data.data()), std::min(data.size(), most)};
}

bool starts(View data, std::string_view mark) { return text_of(data, mark.size()) == mark; }

ImageHeader sized(ImageKind kind, std::uint64_t height, std::uint64_t width, int orientation = 1) {
  return {kind, height, width, orientation, kUnstated};
}

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

// Of an ISO base media file: the major brand and the compatible ones.
std::vector<std::string_view> brands(View data) {
  const std::string_view text = text_of(data, 256);
  if (text.size() < 12 || text.substr(4, 4) != "ftyp") return {};
  const std::size_t end = std::min<std::size_t>(Reader(data, "").four(0), text.size());
  std::vector<std::string_view> found = {text.substr(8, 4)};
  for (std::size_t at = 16; at + 4 <= end; at += 4) found.push_back(text.substr(at, 4));
  return found;
}

struct Box {
  std::string name;
  std::size_t start = 0;  // of the content
  std::size_t end = 0;
};

std::vector<Box> boxes(View data, std::size_t at, std::size_t end) {
  const Reader reader(data, "AVIF");
  std::vector<Box> found;
  while (at < end) {
    std::uint64_t length = reader.four(at);
    std::size_t start = at + 8;
    const std::string name(text_of(data.subspan(std::min(at + 4, data.size())), 4));
    if (name.size() < 4) reader.damaged("ends inside its header (truncated?)");
    if (length == 1) {
      length = reader.number(start, 8);
      start += 8;
    } else if (length == 0) {
      length = end - at;
    }
    if (length < start - at) reader.damaged("has a box that ends before it starts");
    if (found.size() == kMaxParts) reader.damaged("has too many boxes");
    at = length < end - at ? at + static_cast<std::size_t>(length) : end;
    found.push_back({name, std::min(start, end), at});
  }
  return found;
}

Box box(View data, std::size_t at, std::size_t end, const std::string& name) {
  for (const Box& found : boxes(data, at, end)) {
    if (found.name == name) return found;
  }
  throw Damaged("the AVIF has no box '" + name + "' (truncated?)");
}

// EXIF's number for a turn by irot (quarter turns anticlockwise), followed by imir (none, top to bottom, left to right).
constexpr int kTurns[4][3] = {{1, 4, 2}, {8, 5, 7}, {3, 2, 4}, {6, 7, 5}};

ImageHeader avif_header(View data) {
  const Reader reader(data, "AVIF");
  if (reader.has(8, "avis")) throw Unread("an animated AVIF image");
  const Box whole = box(data, 0, data.size(), "meta");
  const std::size_t meta = whole.start + 4;
  const Box first = box(data, meta, whole.end, "pitm");
  const std::uint64_t primary = reader.number(first.start + 4, reader.byte(first.start) != 0 ? 4 : 2);
  const Box properties = box(data, meta, whole.end, "iprp");
  const Box container = box(data, properties.start, properties.end, "ipco");
  const std::vector<Box> listed = boxes(data, container.start, container.end);
  std::optional<std::pair<std::uint64_t, std::uint64_t>> size;
  int angle = 0;
  int mirror = 0;

  const std::size_t table = box(data, properties.start, properties.end, "ipma").start;
  const int item_width = reader.byte(table) != 0 ? 4 : 2;
  const int width = 1 + (reader.byte(table + 3) & 1);
  std::size_t at = table + 8;
  std::uint64_t parts = 0;
  for (std::uint64_t entry = reader.four(table + 4); entry > 0; --entry) {
    const std::uint64_t item = reader.number(at, item_width);
    const int count = reader.byte(at + item_width);
    at += item_width + 1;
    for (int i = 0; i < count && item == primary; ++i) {
      const std::uint64_t index = reader.number(at + width * i, width) & (width == 2 ? 0x7fff : 0x7f);
      if (index < 1 || index > listed.size()) continue;
      const Box& property = listed[index - 1];
      if (property.name == "ispe") size = {reader.four(property.start + 8), reader.four(property.start + 4)};
      if (property.name == "irot") angle = reader.byte(property.start) & 3;
      if (property.name == "imir") mirror = 1 + (reader.byte(property.start) & 1);
    }
    at += static_cast<std::size_t>(width) * count;
    parts += 1 + count;
    if (parts > kMaxParts) reader.damaged("has too many associations");
  }
  if (!size) reader.damaged("does not state its size");
  return sized(ImageKind::kAvif, size->first, size->second, kTurns[angle][mirror]);
}

constexpr std::uint32_t kMaxEntries = 1000;

bool little_endian(View data) { return !starts(data, "MM"); }

// The whole numbers of the first directory, by tag.
std::map<int, std::vector<std::uint64_t>> tiff_directory(View data) {
  const Reader reader(data, "TIFF", little_endian(data));
  std::map<int, std::vector<std::uint64_t>> found;
  const std::size_t start = reader.four(4);
  if (reader.two(start) > kMaxEntries) reader.damaged("has a directory of too many entries");
  for (int entry = 0, entries = reader.two(start); entry < entries; ++entry) {
    std::size_t at = start + 2 + 12 * static_cast<std::size_t>(entry);
    const int tag = reader.two(at);
    const int type = reader.two(at + 2);
    const std::uint64_t count = reader.four(at + 4);
    const int width = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;
    if (width == 0 || count == 0 || found.count(tag) != 0) continue;
    if (count > kMaxParts) reader.damaged("has too many parts");
    at += 8;
    if (count * width > 4) at = reader.four(at);
    std::vector<std::uint64_t>& values = found[tag];
    for (std::uint64_t i = 0; i < count; ++i) values.push_back(reader.number(at + i * width, width));
  }
  return found;
}

ImageHeader tiff_header(View data) {
  const auto directory = tiff_directory(data);
  const Reader reader(data, "TIFF");
  const auto all = [&](int tag) {
    const auto entry = directory.find(tag);
    return entry == directory.end() ? std::vector<std::uint64_t>() : entry->second;
  };
  const auto one = [&](int tag, std::uint64_t otherwise) {
    const auto values = all(tag);
    return values.empty() ? otherwise : values[0];
  };
  const std::uint64_t height = one(257, 0);
  const std::uint64_t width = one(256, 0);
  const std::uint64_t color = one(262, 1);
  const std::uint64_t samples = one(277, 1);
  const std::uint64_t compression = one(259, 1);
  std::vector<std::uint64_t> depths = all(258);
  if (depths.empty()) depths = {1};
  if (directory.count(50706) != 0) throw Unread("a camera's raw file (DNG)");
  for (const std::uint64_t format : all(339)) {
    if (format != 1 && format != 4)
      throw Unread("a TIFF whose pixels are not unsigned integers; 8 and 16 bits are read");
  }
  const std::array<std::uint64_t, 6> compressions = {1, 5, 7, 8, 32773, 32946};
  if (std::find(compressions.begin(), compressions.end(), compression) == compressions.end() ||
      (color == 6 && compression != 7)) {
    throw Unread("a TIFF with compression " + std::to_string(compression) + ", which is not read");
  }
  const std::array<std::uint64_t, 7> channels = {1, 1, 3, 1, 0, 4, 3};
  const std::uint64_t needed = color < channels.size() ? channels[color] : 0;
  if (needed == 0 || (samples != needed && (samples != needed + 1 || color != 2))) {
    throw Unread("a TIFF with colours of kind " + std::to_string(color) + " in " + std::to_string(samples) +
                 " channels, which is not read");
  }
  const bool deep = depths[0] == 16 && color <= 2;
  const bool equal = std::all_of(depths.begin(), depths.end(), [&](std::uint64_t d) { return d == depths[0]; });
  if (!equal || !(depths[0] == 8 || deep || (depths[0] == 1 && samples == 1))) {
    throw Unread("a TIFF of " + std::to_string(depths[0]) + " bits a channel; 8 and 16 are read");
  }
  if (one(284, 1) != 1 && samples > 1) {
    throw Unread("a TIFF with its channels apart from each other, which is not read");
  }
  const auto starts_at = all(273).empty() ? all(324) : all(273);
  const auto lengths = all(279).empty() ? all(325) : all(279);
  if (starts_at.empty() || starts_at.size() != lengths.size()) reader.damaged("does not say where its picture is");
  std::uint64_t held = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (starts_at[i] + lengths[i] > data.size()) reader.damaged("ends inside its picture (truncated?)");
    held += lengths[i];
  }
  // Nothing packs better than deflate's 1032 to 1.
  const double most = (compression == 1 ? 1.0 : 1100.0) * static_cast<double>(held);
  const double stated =
      static_cast<double>(height) * static_cast<double>(width) * static_cast<double>(samples * depths[0]);
  if (stated / 8 >= most + 1) reader.damaged("holds less than the picture it states (truncated?)");
  ImageHeader header = sized(ImageKind::kTiff, height, width, exif_orientation(data));
  if (samples > needed && directory.count(338) != 0) header.extra = static_cast<int>(one(338, 0));
  return header;
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

struct Mark {
  std::string_view start;
  const char* kind;
};

constexpr Mark kOthers[] = {
    {"GIF8"sv, "a GIF image"},
    {"\0\0\0\x0cjP  "sv, "a JPEG 2000 image"},
    {"\xff\x4f\xff\x51"sv, "a JPEG 2000 image"},
    {"\xff\x0a"sv, "a JPEG XL image"},
    {"\0\0\0\x0cJXL "sv, "a JPEG XL image"},
    {"\0\0\1\0"sv, "a Windows icon"},
    {"\x76\x2f\x31\x01"sv, "an OpenEXR image"},
    {"#?RADIANCE"sv, "a Radiance HDR image"},
    {"#?RGBE"sv, "a Radiance HDR image"},
    {"\x59\xa6\x6a\x95"sv, "a Sun raster image"},
    {"qoif"sv, "a QOI image"},
    {"8BPS"sv, "a Photoshop file"},
    {"II+\0"sv, "a BigTIFF image"},
    {"MM\0+"sv, "a BigTIFF image"},
    {"FUJIFILMCCD-RAW"sv, "a camera's raw file"},
    {"%PDF"sv, "a PDF document"},
    {"PK\x03\x04"sv, "a ZIP archive"},
    {"PK\x05\x06"sv, "a ZIP archive"},
    {"\x1f\x8b"sv, "a gzip archive"},
    {"BZh"sv, "a bzip2 archive"},
    {"\xfd\x37zXZ\0"sv, "an xz archive"},
    {"7z\xbc\xaf"sv, "a 7z archive"},
    {"\x28\xb5\x2f\xfd"sv, "a zstd archive"},
    {"\x93NUMPY"sv, "a NumPy array"},
    {"version https://git-lfs"sv, "a pointer of Git LFS (`git lfs pull` fetches the image)"},
};

constexpr Mark kBrands[] = {
    {"heic"sv, "a HEIC image"}, {"heix"sv, "a HEIC image"},
    {"heim"sv, "a HEIC image"}, {"heis"sv, "a HEIC image"},
    {"hevc"sv, "a HEIC image"}, {"hevx"sv, "a HEIC image"},
    {"mif1"sv, "a HEIF image"}, {"msf1"sv, "a HEIF image"},
    {"mif2"sv, "a HEIF image"}, {"crx "sv, "a camera's raw file"},
    {"qt  "sv, "a video"},      {"isom"sv, "a video"},
    {"iso2"sv, "a video"},      {"mp41"sv, "a video"},
    {"mp42"sv, "a video"},      {"M4V "sv, "a video"},
    {"avc1"sv, "a video"},
};

std::string other_kind(View data) {
  for (const Mark& mark : kOthers) {
    if (starts(data, mark.start)) return mark.kind;
  }
  const auto found = brands(data);
  for (const std::string_view brand : found) {
    for (const Mark& mark : kBrands) {
      if (brand == mark.start) return mark.kind;
    }
  }
  if (!found.empty()) return "an ISO media file";
  std::string text(text_of(data, 512));
  if (text.size() >= 3 && text[0] == 'P' && std::string_view("12347f").find(text[1]) != std::string_view::npos &&
      std::isspace(static_cast<unsigned char>(text[2]))) {
    return "a PNM image of another kind than the binary P5 and P6";
  }
  const bool readable = std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 || c == '\t' || c == '\n' || c == '\f' || c == '\r';
  });
  if (text.rfind("\xef\xbb\xbf", 0) == 0) text.erase(0, 3);
  text.erase(0, text.find_first_not_of(" \t\n\v\f\r"));
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  if (text.rfind("<!doctype html", 0) == 0 || text.rfind("<html", 0) == 0) return "a web page, not an image";
  if (text.find("<svg") != std::string::npos) return "an SVG drawing";
  return readable ? "a text, not an image" : "not an image";
}

}  // namespace

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
    const Reader reader(exif, "EXIF", little_endian(exif));
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
  for (const std::string_view brand : brands(data)) {
    if (brand == "avif") return ImageKind::kAvif;
  }
  return std::nullopt;
}

ImageHeader read_header(View data) {
  const std::optional<ImageKind> kind = image_kind(data);
  if (!kind) throw Unread(other_kind(data));
  ImageHeader header;
  switch (*kind) {
    case ImageKind::kJpeg:
      header = jpeg_header(data);
      break;
    case ImageKind::kPng:
      header = png_header(data);
      break;
    case ImageKind::kWebp:
      header = webp_header(data);
      break;
    case ImageKind::kAvif:
      header = avif_header(data);
      break;
    case ImageKind::kTiff:
      header = tiff_header(data);
      break;
    case ImageKind::kBmp:
      header = bmp_header(data);
      break;
    case ImageKind::kPpm:
      header = pnm_header(data);
      break;
  }
  if (header.height < 1 || header.width < 1) {
    throw Damaged(std::string("the ") + name_of(*kind) + " states " + std::to_string(header.width) + "x" +
                  std::to_string(header.height) + " pixels");
  }
  return header;
}
