// Images in other sizes and places.
//
// Pixel centres have whole coordinates. Every value is the same on every instruction set: sums are made in one order, and
// sources are compiled without contraction. `memory` is of what is returned and of what is needed meanwhile.
#pragma once
#include <memory_resource>

#include "faces/pixels.h"
#include "faces/similarity.h"

namespace pnf {

// The image with other sides, its borders on the borders: the mean of the area where it becomes smaller, bilinear where it
// becomes larger. To `out`, rows of 3 * width bytes, `stride` apart.
void resize(const Pixels& image, int height, int width, std::uint8_t* out, std::ptrdiff_t stride,
            std::pmr::memory_resource* memory = std::pmr::get_default_resource());
OwnedPixels resized(const Pixels& image, int height, int width,
                    std::pmr::memory_resource* memory = std::pmr::get_default_resource());

// Turned clockwise by 0, 90, 180 or 270 degrees.
OwnedPixels turned(const Pixels& image, int degrees,
                   std::pmr::memory_resource* memory = std::pmr::get_default_resource());

// Where `to_result` takes the image, in `out`; bilinear, black where there is no image. Blend weights have 10 bits.
void warp(const Pixels& image, const Similarity& to_result, int height, int width, std::uint8_t* out);
// The same, with what would lie between the pixels of a smaller result averaged first.
OwnedPixels warped(const Pixels& image, const Similarity& to_result, int height, int width,
                   std::pmr::memory_resource* memory = std::pmr::get_default_resource());

}  // namespace pnf
