// The program of a network for images of another size.
//
// A program states the sizes and places of all that it computes, for one size of images. Where its steps are convolutions,
// pools and sums, whose weights know no size, those of any other size follow from it; the decoder checks them as it checks
// what a file states.
#pragma once
#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

namespace pnf {

// Replaces `resized`, reusing its memory; what is needed meanwhile is of the same kind. Throws std::invalid_argument as
// decode() does, and when the program is for images of one size, or the sides are no multiples of its unit.
void resize(std::span<const std::int32_t> words, std::size_t weights_floats, int height, int width,
            std::pmr::vector<std::int32_t>& resized);

}  // namespace pnf
