#include "ops/detect_faces.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "faces/detections.h"
#include "ops/check.h"
#include "ops/constant.h"
#include "ops/shape.h"
#include "ops/threads.h"
#include "plan/executor.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kName = "detect_faces: ";
constexpr std::int64_t kColumns = sizeof(Detection) / sizeof(float);
constexpr int kUnit = kDetectorStrides[2];

// With black pixels to the right and below.
Tensor padded(const Tensor& image, int height, int width) {
  Tensor result = torch::stable::empty({height, width, 3}, ScalarType::Byte);
  const auto* in = static_cast<const std::uint8_t*>(image.const_data_ptr());
  auto* out = static_cast<std::uint8_t*>(result.mutable_data_ptr());
  const std::size_t row = image.size(1) * 3, padded_row = std::size_t{3} * width;
  for (std::int64_t y = 0; y < height; ++y, out += padded_row) {
    const std::size_t filled = y < image.size(0) ? row : 0;
    if (filled > 0) std::memcpy(out, in + y * row, filled);
    std::memset(out + filled, 0, padded_row - filled);
  }
  return result;
}

}  // namespace

Tensor detect_faces(const Tensor& image, const Tensor& program, const Tensor& weights, double least_score,
                    double most_overlap, std::int64_t most_candidates, std::int64_t threads) {
  PNF_CHECK(image.is_cpu() && program.is_cpu() && weights.is_cpu(), kName, "the detector runs on the CPU");
  const auto words = constant<std::int32_t>(kName, program, "program");
  const auto constants = constant<float>(kName, weights, "weights");
  PNF_CHECK(image.scalar_type() == ScalarType::Byte && image.dim() == 3 && image.size(2) == 3 && image.size(0) > 0 &&
                image.size(1) > 0,
            kName, "image must be uint8 [H, W, 3], got ", dtype_of(image), " ", shape_of(image));
  PNF_CHECK(image.size(0) <= kMaxSide && image.size(1) <= kMaxSide, kName, "image is ", shape_of(image),
            "; its sides may be ", kMaxSide, " at most");
  const int allowed = threads_of_call(kName, threads);
  return told(kName, [&] {
    const int height = static_cast<int>(image.size(0)), width = static_cast<int>(image.size(1));
    const int high = (height + kUnit - 1) / kUnit * kUnit, wide = (width + kUnit - 1) / kUnit * kUnit;
    const PreparedProgram prepared(words, constants, high, wide);
    std::int64_t expected = 0;
    for (const int stride : kDetectorStrides)
      expected += std::int64_t{high / stride} * (wide / stride) * kDetectorChannels;
    PNF_CHECK(prepared.info().results == expected, kName, "the program is no face detector's");
    Tensor pixels = torch::stable::contiguous(image);
    if (high != height || wide != width) pixels = padded(pixels, high, wide);
    const Tensor maps = torch::stable::empty({expected}, ScalarType::Float);
    float* const found = static_cast<float*>(maps.mutable_data_ptr());
    RunOptions options;
    options.threads = allowed;
    prepared.execute({1, nullptr, static_cast<const std::uint8_t*>(pixels.const_data_ptr())}, options, found);
    DetectionOptions chosen;
    chosen.least_score = static_cast<float>(least_score);
    chosen.most_overlap = static_cast<float>(most_overlap);
    chosen.most_candidates = static_cast<int>(std::clamp<std::int64_t>(most_candidates, 0, 1 << 20));
    const std::vector<Detection> faces = detections(found, high, wide, chosen);
    Tensor result = torch::stable::empty({static_cast<std::int64_t>(faces.size()), kColumns}, ScalarType::Float);
    if (!faces.empty()) std::memcpy(result.mutable_data_ptr(), faces.data(), faces.size() * sizeof(Detection));
    return result;
  });
}

}  // namespace pnf::ops
