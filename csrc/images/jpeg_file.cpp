#include "images/jpeg_file.h"

#include <algorithm>
#include <array>
#include <map>

namespace pocketnet::images {
namespace {

constexpr int kSoi = 0xd8, kEoi = 0xd9, kSos = 0xda, kApp0 = 0xe0, kApp1 = 0xe1, kApp14 = 0xee;
// A progressive file has about ten; each one costs a pass over the whole picture.
constexpr int kMaxScans = 100;
// Zero bytes at the end of a file without end marker that count as a download's unwritten rest.
constexpr std::size_t kPadding = 8;
constexpr std::uint8_t kUnseen = 0xff;

[[noreturn]] void damaged(const std::string& why) { throw Damaged("the JPEG " + why); }

bool is_frame(int marker) { return marker >= 0xc0 && marker <= 0xc2; }

// What a decoder needs: tables, frame, restart interval, scans, and the two markers that tell the colours.
bool is_kept(int marker) {
  return is_frame(marker) || marker == 0xc4 || marker == 0xdb || marker == 0xdd || marker == kSos || marker == kApp0 ||
         marker == kApp14;
}

// 4:4:4, 4:2:2, 4:2:0, 4:4:0 or 4:1:1, and black as luma.
bool is_usual(const std::vector<std::pair<std::uint64_t, std::uint64_t>>& sides) {
  const auto& luma = sides[0];
  const auto& chroma = sides[1];
  if (sides[2] != chroma || (sides.back() != luma && sides.back() != chroma)) return false;
  const auto has = [&](std::uint64_t x, std::uint64_t y) {
    return luma == std::pair(x * chroma.first, y * chroma.second);
  };
  return has(1, 1) || has(2, 1) || has(2, 2) || has(1, 2) || has(4, 1);
}

class Frame {
 public:
  Frame(View segment, bool progressive) : progressive_(progressive) {
    const Reader reader(segment, "JPEG");
    const std::uint64_t height = reader.two(1);
    const std::uint64_t width = reader.two(3);
    components_ = reader.byte(5);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> sides;
    std::uint64_t most_across = 1;
    std::uint64_t most_down = 1;
    for (int i = 0; i < components_; ++i) {
      const std::uint64_t across = reader.byte(7 + 3 * i) >> 4;
      const std::uint64_t down = reader.byte(7 + 3 * i) & 15;
      if (across < 1 || across > 4 || down < 1 || down > 4) damaged("has channels of senseless resolutions");
      most_across = std::max(most_across, across);
      most_down = std::max(most_down, down);
      sides.emplace_back(across, down);
    }
    for (const auto& [across, down] : sides) {
      const std::uint64_t wide = 8 * most_across;
      const std::uint64_t high = 8 * most_down;
      blocks_ += (width * across + wide - 1) / wide * ((height * down + high - 1) / high);
    }
    if (components_ > 1 && !is_usual(sides)) {
      throw Unread("a JPEG whose channels differ in resolution in a way that is not read");
    }
  }

  // Notes what a scan brings; returns the length of its header.
  std::size_t note_scan(View content) {
    const std::size_t count = content.empty() ? 0 : content[0];
    if (count < 1 || count > 4 || content.size() < 4 + 2 * count) damaged("has a scan without channels");
    if (++scans_ > kMaxScans) damaged("has more than " + std::to_string(kMaxScans) + " scans");
    const int first = progressive_ ? content[1 + 2 * count] : 0;
    const int last = progressive_ ? std::min<int>(content[2 + 2 * count], 63) : 63;
    const std::uint8_t bits = progressive_ ? content[3 + 2 * count] & 15 : 0;
    for (std::size_t i = 0; i < count; ++i) {
      auto& missing = missing_.try_emplace(content[1 + 2 * i], filled()).first->second;
      for (int k = first; k <= last; ++k) missing[k] = bits;
    }
    return 8 + 2 * count;
  }

  // Whether the scans so far bring every coefficient with all its bits.
  bool is_whole() const {
    return static_cast<int>(missing_.size()) == components_ &&
           std::all_of(missing_.begin(), missing_.end(), [](const auto& component) {
             return std::all_of(component.second.begin(), component.second.end(), [](int bits) { return bits == 0; });
           });
  }

  // At least two bits for a block in one scan, one in the first of several.
  bool may_be_in(std::uint64_t coded) const { return coded * 8 >= blocks_ * (progressive_ ? 1 : 2); }
  int scans() const { return scans_; }
  int components() const { return components_; }

 private:
  static std::array<std::uint8_t, 64> filled() {
    std::array<std::uint8_t, 64> unseen;
    unseen.fill(kUnseen);
    return unseen;
  }

  bool progressive_;
  int components_ = 0;
  int scans_ = 0;
  std::uint64_t blocks_ = 0;
  // By component and coefficient, the bits that are still to come.
  std::map<int, std::array<std::uint8_t, 64>> missing_;
};

// In entropy-coded data 0xFF is followed by 0x00 (a stuffed byte), by a restart marker or by fill bytes.
std::size_t end_of_scan(View file, std::size_t at) {
  for (; at + 1 < file.size(); ++at) {
    const int next = file[at + 1];
    if (file[at] == 0xff && next != 0x00 && next != 0xff && !(next >= 0xd0 && next <= 0xd7)) return at;
  }
  return file.size();
}

void remove_padding(Bytes& data, std::size_t scan) {
  std::size_t end = data.size();
  while (end > scan && data[end - 1] == 0) --end;
  if (data.size() - end >= kPadding) {
    // The zero behind 0xFF is a stuffed one.
    data.resize(end > scan && data[end - 1] == 0xff ? end + 1 : end);
  } else if (data.back() == 0xff) {
    data.pop_back();
  }
}

}  // namespace

JpegFile check_jpeg(View file) {
  JpegFile found;
  found.data = {0xff, 0xd8};
  found.data.reserve(file.size() + 2);
  std::vector<Frame> frames;
  bool ended = false;
  bool oriented = false;
  std::uint64_t coded = 0;
  std::size_t last = 0;
  std::size_t at = 2;
  for (int part = 0; !ended; ++part) {
    if (part == kMaxParts) damaged("has too many segments");
    at = next_jpeg_marker(file, at);
    if (at == file.size()) break;
    const std::size_t start = at;
    const int marker = file[at + 1];
    at += 2;
    if (marker < 0xc0 || (marker >= 0xd0 && marker <= 0xd7)) continue;
    if (marker == kSoi) damaged("starts again at byte " + std::to_string(start));
    if (marker == kEoi) {
      ended = true;
      break;
    }
    const std::size_t length = at + 2 <= file.size() ? std::size_t{file[at]} << 8 | file[at + 1] : 0;
    if (length < 2 || length > file.size() - at) damaged("ends inside a segment (truncated?)");
    const View content = file.subspan(at + 2, length - 2);
    std::size_t end = at + length;
    if (marker == kApp1 && !oriented && Reader(content, "EXIF").has(0, std::string_view("Exif\0\0", 6))) {
      oriented = true;
      found.orientation = exif_orientation(content.subspan(6));
    } else if (is_frame(marker)) {
      if (!frames.empty()) damaged("has two frames");
      frames.emplace_back(content, marker == 0xc2);
    } else if (marker == kSos) {
      if (frames.empty()) damaged("has no frame before its picture");
      frames[0].note_scan(content);
      end = end_of_scan(file, end);
      coded += end - at - length;
    }
    if (is_kept(marker)) {
      last = found.data.size();
      found.data.insert(found.data.end(), file.begin() + static_cast<std::ptrdiff_t>(start),
                        file.begin() + static_cast<std::ptrdiff_t>(end));
    }
    at = end;
  }
  if (frames.empty() || frames[0].scans() == 0) damaged("ends before its picture (truncated?)");
  if (!ended) {
    if (!frames[0].is_whole()) damaged("ends before its last scan (truncated?)");
    remove_padding(found.data, last);
  }
  if (!frames[0].may_be_in(coded)) damaged("holds less than the picture it states (truncated?)");
  found.data.insert(found.data.end(), {0xff, 0xd9});
  found.components = frames[0].components();
  return found;
}

}  // namespace pocketnet::images
