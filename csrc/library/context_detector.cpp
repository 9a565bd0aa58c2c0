#include "library/context_detector.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

#include "faces/detector.h"
#include "library/status.h"
#include "plan/executor.h"
#include "plan/placement.h"
#include "plan/resize.h"

namespace pnf::library {

int largest_detector_side(int photo_side) {
  // The diagonal, for photos that are turned by half quarters.
  const int diagonal = static_cast<int>(std::ceil(photo_side * std::numbers::sqrt2)) + 1;
  const int side = std::clamp(diagonal, kMostSideOfParts, kMostSideOfPhotos);
  return (side + kDetectorStrides[2] - 1) / kDetectorStrides[2] * kDetectorStrides[2];
}

void detector_for(const NetworkFile& file, int height, int width, std::pmr::vector<std::int32_t>& words,
                  Program& program) {
  resize(file.program, file.weights.size(), height, width, words);
  decode(words, file.weights.size(), program);
  place_windows(program);
}

ContextDetector::ContextDetector(const pocketnet_model& model, const DetectorMemory& memory,
                                 std::pmr::memory_resource* rest)
    : model_(model), memory_(memory), rest_(rest), words_(rest), program_(rest) {
  // Of every size, a program has as many words and steps: they stay where they are now.
  prepare(memory.largest_side, memory.largest_side);
}

void ContextDetector::prepare(int height, int width) {
  if (height == height_ && width == width_) return;
  height_ = width_ = 0;
  try {
    detector_for(model_.file.detector, height, width, words_, program_);
  } catch (const std::invalid_argument& problem) {
    throw Refusal(POCKETNET_BAD_FILE, problem.what());
  }
  if (program_.results != size_of_maps(height, width)) {
    throw Refusal(POCKETNET_BAD_FILE, "a damaged .pnf file: its detector finds no faces");
  }
  height_ = height, width_ = width;
}

std::uint8_t* ContextDetector::image(int height, int width) {
  if (height > memory_.largest_side || width > memory_.largest_side) {
    throw Refusal(POCKETNET_INTERNAL, "the detector is given an image of " + std::to_string(height) + " x " +
                                          std::to_string(width) + " pixels; the context is made for " +
                                          std::to_string(memory_.largest_side));
  }
  prepare(height, width);
  if (program_.lane_bytes() > memory_.work_bytes) {
    throw Refusal(POCKETNET_INTERNAL, "an image of " + std::to_string(height) + " x " + std::to_string(width) +
                                          " pixels takes more memory than the context has");
  }
  return memory_.pixels;
}

const float* ContextDetector::maps() {
  const NetworkFile& file = model_.file.detector;
  program_.bgr = (file.program[kBgrWord] != 0) != bgr_;
  execute_in(memory_.work, program_, file.weights, model_.kernels, {1, nullptr, memory_.pixels}, false, memory_.maps);
  return memory_.maps;
}

}  // namespace pnf::library
