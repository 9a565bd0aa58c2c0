// What users hand in instead of an image that is read, so that the refusal can name it.
#include <algorithm>
#include <cctype>

#include "images/parsing.h"

namespace pocketnet::images {
namespace {

using std::string_view_literals::operator""sv;

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

}  // namespace

std::string other_kind(View data) {
  for (const Mark& mark : kOthers) {
    if (starts(data, mark.start)) return mark.kind;
  }
  const auto found = iso_brands(data);
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

}  // namespace pocketnet::images
