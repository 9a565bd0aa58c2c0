#include "library/context.h"

#include <algorithm>
#include <cmath>
#include <memory_resource>
#include <stdexcept>
#include <string>
#include <vector>

#include "faces/alignment.h"
#include "faces/detector.h"
#include "faces/quality.h"
#include "library/images.h"
#include "library/status.h"
#include "plan/executor.h"
#include "plan/workspace.h"

namespace pnf::library {
namespace {

// Three bytes a pixel must fit in memory beside the rest.
constexpr std::uint32_t kPhotoSide = 2048, kMostPhotoSide = sizeof(void*) == 4 ? 1 << 14 : 1 << 16;

std::size_t lines(std::size_t bytes) {
  return (bytes + MemoryBlock::kUnit - 1) / MemoryBlock::kUnit * MemoryBlock::kUnit;
}

// Working memory of the detector for square images, and a little for others of less width: bands are of whole rows.
std::size_t detector_work(const pocketnet_model& model, int side) {
  Program program;
  try {
    std::pmr::vector<std::int32_t> words;
    detector_for(model.file.detector, side, side, words, program);
  } catch (const std::invalid_argument& problem) {
    throw Refusal(POCKETNET_LIMIT, std::string(problem.what()) + " (max_photo_side)");
  }
  const std::size_t bytes = program.lane_bytes() + program.lane_bytes() / 16;
  if (bytes > model.max_working_bytes) {
    throw Refusal(POCKETNET_LIMIT, "photos of such a side need " + std::to_string(bytes) +
                                       " bytes of working memory; max_working_bytes is " +
                                       std::to_string(model.max_working_bytes));
  }
  return bytes;
}

// What finding faces takes besides: parts of the photo that are turned or enlarged on their way to the detector, at most
// the largest image and what it is made from, twice its sides; places that see a face, while they are put in order; rows
// that are being resampled; and the faces of eight ways up, each of which may have as many as are candidates.
std::size_t detector_rest(int photo_side, int side) {
  const std::size_t image = std::size_t{3} * side * side, places = size_of_maps(side, side) / kDetectorChannels;
  const std::size_t parts = 4 * image, seen = 5 * places * sizeof(Detection);
  const std::size_t rows = 64 * (std::size_t(photo_side) + 2 * side);
  const std::size_t faces = std::size_t{12} * DetectionOptions().most_candidates * sizeof(Face);
  const std::size_t converted = std::size_t{3} * photo_side * photo_side;
  constexpr std::size_t kPrograms = std::size_t{1} << 20;
  return parts + seen + rows + faces + converted + kPrograms;
}

int turn_of(const Face& face) { return (static_cast<int>(std::lround(-face.tilt() / 90)) % 4 + 4) % 4 * 90; }

pocketnet_face record_of(const Face& face) {
  pocketnet_face record = {};
  const double box[4] = {face.left, face.top, face.width, face.height};
  for (int i = 0; i < 4; ++i) record.box[i] = static_cast<float>(box[i]);
  for (int i = 0; i < 5; ++i) {
    record.landmarks[i][0] = static_cast<float>(face.landmarks[i].real());
    record.landmarks[i][1] = static_cast<float>(face.landmarks[i].imag());
  }
  record.score = static_cast<float>(face.score);
  record.quality = static_cast<float>(quality_of(face));
  record.turn = turn_of(face);
  return record;
}

}  // namespace

ContextLayout::ContextLayout(const pocketnet_model& model, const pocketnet_context_options& options) {
  const std::size_t crop_bytes = std::size_t{3} * model.crop_side() * model.crop_side();
  work_bytes = model.embedder[0].lane_bytes();
  if (model.takes_photos() && options.crops_only == 0) {
    const std::uint32_t side = options.max_photo_side == 0 ? kPhotoSide : options.max_photo_side;
    if (side > kMostPhotoSide) {
      throw Refusal(POCKETNET_INVALID_ARGUMENT,
                    "max_photo_side is " + std::to_string(side) + "; the most is " + std::to_string(kMostPhotoSide));
    }
    photo_side = static_cast<int>(side);
    detector_side = largest_detector_side(photo_side);
    work_bytes = std::max(work_bytes, detector_work(model, detector_side));
  }
  std::size_t end = lines(sizeof(pocketnet_context));
  const auto place = [&end](std::size_t bytes) {
    const std::size_t begin = end;
    end += lines(bytes);
    return begin;
  };
  work = place(work_bytes);
  crop = place(crop_bytes);
  embedding = place(model.file.embedding_dim * sizeof(float));
  if (photo_side > 0) {
    pixels = place(std::size_t{3} * detector_side * detector_side);
    maps = place(size_of_maps(detector_side, detector_side) * sizeof(float));
    rest = place(detector_rest(photo_side, detector_side));
  }
  all = end;
}

}  // namespace pnf::library

using namespace pnf::library;

pocketnet_context::pocketnet_context(const pocketnet_model& model, const ContextLayout& layout, std::byte* memory,
                                     bool owned)
    : model_(model),
      owned_(owned),
      photo_side_(layout.photo_side),
      work_(reinterpret_cast<float*>(memory + layout.work)),
      crop_(reinterpret_cast<std::uint8_t*>(memory + layout.crop)),
      embedding_(reinterpret_cast<float*>(memory + layout.embedding)) {
  if (owned) pnf::advise_huge_pages(work_, layout.work_bytes);
  if (photo_side_ == 0) return;
  rest_.emplace(std::span(memory + layout.rest, layout.all - layout.rest));
  const DetectorMemory parts = {reinterpret_cast<std::uint8_t*>(memory + layout.pixels),
                                reinterpret_cast<float*>(memory + layout.maps), work_, layout.work_bytes,
                                layout.detector_side};
  detector_.emplace(model, parts, &*rest_);
}

void pocketnet_context::embed_crop(bool bgr, float* embedding) {
  pnf::execute_in(work_, model_.embedder[bgr], model_.file.embedder.weights, model_.kernels, {1, nullptr, crop_},
                  model_.file.flip, embedding_);
  const std::uint32_t dim = model_.file.embedding_dim;
  double squares = 0.0;
  for (std::uint32_t i = 0; i < dim; ++i) squares += static_cast<double>(embedding_[i]) * embedding_[i];
  constexpr double kLeast = 1e-12;
  const double length = std::max(std::sqrt(squares), kLeast);
  for (std::uint32_t i = 0; i < dim; ++i) embedding[i] = static_cast<float>(embedding_[i] / length);
}

void pocketnet_context::embed(const pocketnet_image* crops, std::size_t count, float* embeddings) {
  const auto side = static_cast<std::uint32_t>(model_.crop_side());
  for (std::size_t i = 0; i < count; ++i) {
    check_image(crops[i], side, "a crop");
    if (crops[i].width != side || crops[i].height != side) {
      throw Refusal(POCKETNET_INVALID_ARGUMENT, "a crop: " + std::to_string(crops[i].width) + " x " +
                                                    std::to_string(crops[i].height) + " pixels; expected " +
                                                    std::to_string(side) + " x " + std::to_string(side));
    }
  }
  for (std::size_t i = 0; i < count; ++i, embeddings += model_.file.embedding_dim) {
    draw(crops[i], crop_);
    embed_crop(is_bgr(crops[i]), embeddings);
  }
}

std::size_t pocketnet_context::analyze(const pocketnet_image& photo, pocketnet_face* faces, float* embeddings,
                                       std::size_t capacity) {
  if (!detector_) {
    throw Refusal(POCKETNET_UNSUPPORTED,
                  model_.takes_photos() ? "the context was made for crops only"
                                        : "the file takes aligned crops only; pocketnet export --photos -o faces.pnf");
  }
  check_image(photo, photo_side_, "the photo");
  const PhotoPixels own(photo, &*rest_);
  const pnf::Pixels& pixels = own.pixels();
  detector_->set_bgr(is_bgr(photo));
  pnf::Faces found = pnf::find_faces(pixels, *detector_, {model_.file.least_score, model_.file.upright});
  if (model_.file.max_faces > 0 && found.size() > model_.file.max_faces) {
    found.erase(found.begin() + model_.file.max_faces, found.end());
  }
  std::erase_if(found, [](const pnf::Face& face) { return face.doubt != pnf::Doubt::kNone; });
  for (std::size_t i = 0; i < std::min(found.size(), capacity); ++i) {
    faces[i] = record_of(found[i]);
    if (embeddings == nullptr) continue;
    pnf::align(pixels, found[i].landmarks, model_.crop_side(), crop_);
    embed_crop(is_bgr(photo), embeddings + i * model_.file.embedding_dim);
  }
  return found.size();
}
