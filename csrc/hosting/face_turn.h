// Which way up a face stands.
#pragma once
#include <array>

namespace pocketnet::hosting {

using Landmarks = std::array<std::array<float, 2>, 5>;  // x, y, in the order of the alignment template

// 0, 90, 180 or 270: clockwise degrees by which a photo must be turned for the face to be upright.
int turn_of(const Landmarks& landmarks);

}  // namespace pocketnet::hosting
