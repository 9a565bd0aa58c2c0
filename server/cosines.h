// The cosines of many embeddings to one.
#pragma once
#include <span>

namespace pocketnet::server {

// Of each of the `cosines.size()` rows to `query`, all of length 1.
void cosines_to(std::span<const float> query, std::span<const float> rows, std::span<float> cosines);

}  // namespace pocketnet::server
