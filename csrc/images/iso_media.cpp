// ISO base media files: boxes in boxes. AVIF is one.
#include <algorithm>

#include "images/parsing.h"

namespace pocketnet::images {
namespace {

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

}  // namespace

std::vector<std::string_view> iso_brands(View data) {
  const std::string_view text = text_of(data, 256);
  if (text.size() < 12 || text.substr(4, 4) != "ftyp") return {};
  const std::size_t end = std::min<std::size_t>(Reader(data, "").four(0), text.size());
  std::vector<std::string_view> found = {text.substr(8, 4)};
  for (std::size_t at = 16; at + 4 <= end; at += 4) found.push_back(text.substr(at, 4));
  return found;
}

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

}  // namespace pocketnet::images
