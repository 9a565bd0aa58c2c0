// How far decisions about a face can be relied on, told before any is made.
#pragma once
#include "faces/face.h"

namespace pnf {

// 0 to 1, larger is better; pocketnet_fast/faces/quality.py says what it is worth. Throws as to_template().
double quality_of(const Face& face);

}  // namespace pnf
