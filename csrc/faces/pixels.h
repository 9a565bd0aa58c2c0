// Images of three bytes a pixel.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <utility>

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
  OwnedPixels(int height, int width, std::pmr::memory_resource* memory = std::pmr::get_default_resource())
      : height_(height), width_(width), memory_(memory), data_(static_cast<std::uint8_t*>(memory->allocate(bytes()))) {}
  OwnedPixels(OwnedPixels&& other) noexcept
      : height_(other.height_),
        width_(other.width_),
        memory_(other.memory_),
        data_(std::exchange(other.data_, nullptr)) {}
  OwnedPixels& operator=(OwnedPixels&&) = delete;
  ~OwnedPixels() {
    if (data_ != nullptr) memory_->deallocate(data_, bytes());
  }

  int height() const { return height_; }
  int width() const { return width_; }
  std::uint8_t* row(int y) { return data_ + std::size_t{3} * width_ * y; }
  Pixels pixels() const { return {data_, height_, width_, std::ptrdiff_t{3} * width_}; }

 private:
  std::size_t bytes() const { return std::size_t{3} * height_ * width_; }

  int height_, width_;
  std::pmr::memory_resource* memory_;
  std::uint8_t* data_;
};

}  // namespace pnf
