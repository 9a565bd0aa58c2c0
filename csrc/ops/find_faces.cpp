#include "ops/find_faces.h"

#include <torch/csrc/stable/ops.h>

#include "faces/detector.h"
#include "faces/pooled_detector_network.h"
#include "ops/check.h"
#include "ops/constant.h"
#include "ops/photo.h"
#include "ops/threads.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kName = "find_faces: ";
constexpr std::int64_t kColumns = 17;

double* write(const Face& face, double* to) {
  for (const double value : {face.left, face.top, face.width, face.height}) *to++ = value;
  for (const Point& landmark : face.landmarks) {
    *to++ = landmark.real();
    *to++ = landmark.imag();
  }
  for (const double value : {face.score, static_cast<double>(face.doubt), face.rival}) *to++ = value;
  return to;
}

}  // namespace

Tensor find_faces(const Tensor& photo, const Tensor& program, const Tensor& weights, double least_score, bool upright,
                  std::int64_t threads) {
  const auto words = constant<std::int32_t>(kName, program, "program");
  const auto constants = constant<float>(kName, weights, "weights");
  const int allowed = threads_of_call(kName, threads);
  check_photo(kName, photo);
  return told(kName, [&] {
    const Tensor pixels = torch::stable::contiguous(photo);
    PooledDetectorNetwork network(words, constants, allowed);
    const Faces faces = pnf::find_faces(pixels_of(pixels), network, {static_cast<float>(least_score), upright});
    Tensor result = torch::stable::empty({static_cast<std::int64_t>(faces.size()), kColumns}, ScalarType::Double);
    double* to = static_cast<double*>(result.mutable_data_ptr());
    for (const Face& face : faces) to = write(face, to);
    return result;
  });
}

}  // namespace pnf::ops
