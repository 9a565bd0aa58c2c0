// Similarity transforms of the plane: with points read as complex numbers, z -> scale * z + shift.
#pragma once
#include <complex>

namespace pnf {

using Point = std::complex<double>;  // x + iy

struct Similarity {
  Point scale = 1.0;  // its length enlarges, its angle turns
  Point shift = 0.0;

  Point operator()(Point z) const { return scale * z + shift; }
  Similarity inverse() const { return {1.0 / scale, -shift / scale}; }
  // First `other`, then this one.
  Similarity after(const Similarity& other) const { return {scale * other.scale, scale * other.shift + shift}; }
};

}  // namespace pnf
