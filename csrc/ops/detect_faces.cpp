#include "ops/detect_faces.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "faces/detector.h"
#include "faces/pooled_detector_network.h"
#include "ops/check.h"
#include "ops/constant.h"
#include "ops/photo.h"
#include "ops/threads.h"
#include "plan/program.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kName = "detect_faces: ";
constexpr std::int64_t kColumns = sizeof(Detection) / sizeof(float);

}  // namespace

Tensor detect_faces(const Tensor& image, const Tensor& program, const Tensor& weights, double least_score,
                    double most_overlap, std::int64_t most_candidates, bool blend, std::int64_t threads) {
  const auto words = constant<std::int32_t>(kName, program, "program");
  const auto constants = constant<float>(kName, weights, "weights");
  check_photo(kName, image);
  PNF_CHECK(image.size(0) <= kMaxSide && image.size(1) <= kMaxSide, kName, "image is ", shape_of(image),
            "; its sides may be ", kMaxSide, " at most");
  DetectionOptions options;
  options.least_score = static_cast<float>(least_score);
  options.most_overlap = static_cast<float>(most_overlap);
  options.most_candidates = static_cast<int>(std::clamp<std::int64_t>(most_candidates, 0, 1 << 20));
  options.blend = blend;
  const int allowed = threads_of_call(kName, threads);
  return told(kName, [&] {
    const Tensor pixels = torch::stable::contiguous(image);
    PooledDetectorNetwork network(words, constants, allowed);
    const std::pmr::vector<Detection> faces = detect(pixels_of(pixels), network, options);
    Tensor result = torch::stable::empty({static_cast<std::int64_t>(faces.size()), kColumns}, ScalarType::Float);
    if (!faces.empty()) std::memcpy(result.mutable_data_ptr(), faces.data(), faces.size() * sizeof(Detection));
    return result;
  });
}

}  // namespace pnf::ops
