// Images as callers have them.
#pragma once
#include <cstdint>
#include <memory_resource>
#include <optional>

#include "faces/pixels.h"
#include "pocketnet.h"

namespace pnf::library {

// Throws Refusal where an image is none, or has another size than a side of 1 to `most_side`.
void check_image(const pocketnet_image& image, std::uint32_t most_side, const char* what);

inline bool is_bgr(const pocketnet_image& image) { return image.format == POCKETNET_BGR; }

// Rows of three bytes a pixel without gaps, to `out`: of B, G and R if it is so, of R, G and B otherwise.
void draw(const pocketnet_image& image, std::uint8_t* out);

// The pixels of an image, where they are or, of other formats, drawn in `memory`.
class PhotoPixels {
 public:
  PhotoPixels(const pocketnet_image& image, std::pmr::memory_resource* memory);
  const Pixels& pixels() const { return pixels_; }

 private:
  std::optional<OwnedPixels> drawn_;
  Pixels pixels_;
};

}  // namespace pnf::library
