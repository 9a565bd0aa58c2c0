// Which way up a photo is, told by the scores of the faces that are found in it.
//
// YuNet finds turned faces, too, with landmarks of an upright face in the wrong places; aligned by them, different people
// look the same to a network. Of 96 photos turned four ways the upright one had the best score each time, at least 0.919,
// and no turned one more than 0.916. So a face of a high score settles the matter at the first look; otherwise the photo is
// looked at in its quarter turns and, if need be, between them.
#pragma once
#include <functional>
#include <memory_resource>

#include "faces/face.h"

namespace pnf {

// Finds the faces of a photo whose clockwise tilt in degrees is taken away, in the photo's own coordinates.
using Look = std::function<Faces(int tilt)>;

// The faces of the best way up, Doubt::kWayUp where another one is as likely; in no particular order.
Faces faces_of_best_way_up(const Look& look, std::pmr::memory_resource* memory = std::pmr::get_default_resource());

}  // namespace pnf
