#include <algorithm>
#include <array>
#include <map>

#include "images/parsing.h"

namespace pocketnet::images {
namespace {

constexpr std::uint32_t kMaxEntries = 1000;

// The whole numbers of the first directory, by tag.
std::map<int, std::vector<std::uint64_t>> tiff_directory(View data) {
  const Reader reader(data, "TIFF", is_little_endian_tiff(data));
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

}  // namespace

bool is_little_endian_tiff(View data) { return !starts(data, "MM"); }

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

}  // namespace pocketnet::images
