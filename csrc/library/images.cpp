#include "library/images.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "library/status.h"

namespace pnf::library {
namespace {

bool has_chroma(const pocketnet_image& image) {
  return image.format == POCKETNET_NV12 || image.format == POCKETNET_NV21;
}

std::ptrdiff_t row_bytes(const pocketnet_image& image) {
  const bool colour = image.format == POCKETNET_RGB || image.format == POCKETNET_BGR;
  return static_cast<std::ptrdiff_t>(image.width) * (colour ? 3 : 1);
}

std::ptrdiff_t chroma_row_bytes(const pocketnet_image& image) {
  return static_cast<std::ptrdiff_t>(image.width + 1) / 2 * 2;
}

std::ptrdiff_t stride_of(std::ptrdiff_t stated, std::ptrdiff_t row) { return stated == 0 ? row : stated; }

std::uint8_t byte_of(int value) { return static_cast<std::uint8_t>(std::clamp(value >> 8, 0, 255)); }

// BT.601 with Y in 16..235, in 8 bits behind the point.
void draw_pixel(int luma, int u, int v, std::uint8_t* out) {
  const int bright = 298 * (luma - 16) + 128;
  out[0] = byte_of(bright + 409 * (v - 128));
  out[1] = byte_of(bright - 100 * (u - 128) - 208 * (v - 128));
  out[2] = byte_of(bright + 516 * (u - 128));
}

void draw_row(const pocketnet_image& image, std::uint32_t y, std::uint8_t* out) {
  const std::uint8_t* const row = image.pixels + y * stride_of(image.stride, row_bytes(image));
  if (has_chroma(image)) {
    const std::uint8_t* const chroma = image.chroma + y / 2 * stride_of(image.chroma_stride, chroma_row_bytes(image));
    const int u = image.format == POCKETNET_NV12 ? 0 : 1;
    for (std::uint32_t x = 0; x < image.width; ++x) {
      draw_pixel(row[x], chroma[x / 2 * 2 + u], chroma[x / 2 * 2 + 1 - u], out + std::size_t{3} * x);
    }
  } else if (image.format == POCKETNET_GREY) {
    for (std::uint32_t x = 0; x < image.width; ++x) std::memset(out + std::size_t{3} * x, row[x], 3);
  } else {
    std::memcpy(out, row, row_bytes(image));
  }
}

[[noreturn]] void refuse(const char* what, const std::string& problem) {
  throw Refusal(POCKETNET_INVALID_ARGUMENT, std::string(what) + ": " + problem);
}

void check_stride(std::ptrdiff_t stride, std::ptrdiff_t row, const char* what) {
  if (stride != 0 && std::abs(stride) < row) {
    refuse(what, "a stride of " + std::to_string(stride) + " bytes; a row has " + std::to_string(row));
  }
}

}  // namespace

void check_image(const pocketnet_image& image, std::uint32_t most_side, const char* what) {
  if (image.format > POCKETNET_NV21) refuse(what, "there is no format " + std::to_string(image.format));
  if (image.pixels == nullptr || (has_chroma(image) && image.chroma == nullptr))
    refuse(what, "pixels or chroma is NULL");
  if (image.width == 0 || image.height == 0) refuse(what, "it has no pixels");
  if (image.width > most_side || image.height > most_side) {
    throw Refusal(POCKETNET_LIMIT, std::string(what) + ": " + std::to_string(image.width) + " x " +
                                       std::to_string(image.height) + " pixels; the largest side is " +
                                       std::to_string(most_side));
  }
  check_stride(image.stride, row_bytes(image), what);
  if (has_chroma(image)) check_stride(image.chroma_stride, chroma_row_bytes(image), what);
}

void draw(const pocketnet_image& image, std::uint8_t* out) {
  for (std::uint32_t y = 0; y < image.height; ++y, out += std::size_t{3} * image.width) draw_row(image, y, out);
}

PhotoPixels::PhotoPixels(const pocketnet_image& image, std::pmr::memory_resource* memory)
    : pixels_{image.pixels, static_cast<int>(image.height), static_cast<int>(image.width),
              stride_of(image.stride, row_bytes(image))} {
  if (image.format == POCKETNET_RGB || image.format == POCKETNET_BGR) return;
  drawn_.emplace(pixels_.height, pixels_.width, memory);
  draw(image, drawn_->row(0));
  pixels_ = drawn_->pixels();
}

}  // namespace pnf::library
