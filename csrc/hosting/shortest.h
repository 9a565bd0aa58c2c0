// Floats as JSON states them.
#pragma once
#include <span>
#include <vector>

namespace pocketnet::hosting {

// The number with the digits that tell a float from its neighbours, and no more, where a double's would be printed.
double shortest(float value);
std::vector<double> shortest(std::span<const float> values);

}  // namespace pocketnet::hosting
