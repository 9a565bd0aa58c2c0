// A face that was found in a photo, and what makes it doubtful.
#pragma once
#include <memory_resource>
#include <vector>

#include "faces/detections.h"
#include "faces/similarity.h"

namespace pnf {

enum class Doubt {
  kNone,
  kWayUp,        // another way up is as likely
  kOutside,      // landmarks lie outside the box
  kDistance,     // eyes and mouth are too near or too far
  kSwappedEyes,  // the eyes are on each other's side
  kNose,         // the nose is not between eyes and mouth
};

// In pixels of the image that it was found in, the centre of the first one at (0, 0).
struct Face {
  double left, top, width, height;
  Point landmarks[5];  // left and right eye, nose, left and right corner of the mouth, as seen in the image
  double score;
  Doubt doubt = Doubt::kNone;
  double rival = 0.0;  // the score of the other way up, for Doubt::kWayUp

  // The shorter side of the box.
  double size() const { return width < height ? width : height; }
  // Area of the box times score.
  double prominence() const { return width * height * score; }
  Point centre() const { return {left + width / 2, top + height / 2}; }
  // The mean of the landmarks.
  Point middle() const;
  // Clockwise degrees, -180 to 180, from upright in the image to the face: eyes to mouth.
  double tilt() const;
};

using Faces = std::pmr::vector<Face>;

// In an image of which the detector saw `width` x `height` pixels for every one of the result.
Face face_of(const Detection& found, double width, double height);

// Where the transform takes it. The box keeps its centre and its size, upright in its new place.
Face moved(const Face& face, const Similarity& transform);

// Intersection over union of the boxes.
double overlap(const Face& one, const Face& other);

// Between the middles of the landmarks, in sizes of the first face.
double distance(const Face& one, const Face& other);

// Why the landmarks are where no face can have them. Profiles have both eyes nearly in one place and pass.
Doubt implausible(const Face& face);

}  // namespace pnf
