// Images of three bytes a pixel.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace pnf {

// One that somebody else holds: rows of `width` pixels, `stride` bytes from one to the next.
struct Pixels {
  const std::uint8_t* data;
  int height, width;
  std::ptrdiff_t stride;

  const std::uint8_t* row(int y) const { return data + y * stride; }
  // Those at left <= x < left + wide, top <= y < top + high, which must lie inside.
  Pixels part(int left, int top, int wide, int high) const { return {row(top) + 3 * left, high, wide, stride}; }
};

class OwnedPixels {
 public:
  // Of whatever the memory holds.
  OwnedPixels(int height, int width)
      : height_(height),
        width_(width),
        data_(std::make_unique_for_overwrite<std::uint8_t[]>(std::size_t{3} * height * width)) {}

  int height() const { return height_; }
  int width() const { return width_; }
  std::uint8_t* row(int y) { return data_.get() + std::size_t{3} * width_ * y; }
  Pixels pixels() const { return {data_.get(), height_, width_, std::ptrdiff_t{3} * width_}; }

 private:
  int height_, width_;
  std::unique_ptr<std::uint8_t[]> data_;
};

}  // namespace pnf
