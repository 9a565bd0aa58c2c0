#include "photos.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>

#include <chrono>
#include <cstring>

#include "hosting/face_turn.h"

namespace hosting = pocketnet::hosting;
namespace images = pocketnet::images;

namespace {

// [5, 2]
hosting::Landmarks landmarks_of(const at::Tensor& points) {
  const at::Tensor values = points.contiguous();
  hosting::Landmarks landmarks;
  std::memcpy(landmarks.data(), values.const_data_ptr<float>(), sizeof(landmarks));
  return landmarks;
}

Json faces_of(const hosting::FoundFaces& found) {
  Json faces = Json::array();
  for (std::int64_t i = 0; i < found.boxes.size(0); ++i) {
    faces.push_back({{"box", list(found.boxes[i])},
                     {"landmarks", list(found.landmarks[i])},
                     {"score", shortest(found.scores[i].item<float>())},
                     {"turn", hosting::turn_of(landmarks_of(found.landmarks[i]))},
                     {"embedding", list(found.embeddings[i])}});
  }
  return faces;
}

}  // namespace

Json photos_report(hosting::ExportedNetwork& network, const std::vector<std::string>& photos,
                   const images::ImageLimits& limits, const std::optional<Decider>& by) {
  Json report = {{"photos", Json::array()}, {"decisions", nullptr}};
  std::vector<at::Tensor> main_faces;
  std::vector<std::size_t> owners;
  for (std::size_t i = 0; i < photos.size(); ++i) {
    images::Image image = images::read_image(photos[i], limits);
    const auto start = std::chrono::steady_clock::now();
    const hosting::FoundFaces found =
        network.faces(at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte));
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    report["photos"].push_back({{"file", photos[i]}, {"milliseconds", elapsed.count()}, {"faces", faces_of(found)}});
    if (found.boxes.size(0) > 0) {
      main_faces.push_back(found.embeddings[0]);
      owners.push_back(i);
    }
  }
  // A threshold holds for embeddings of the kind that it was calibrated with.
  if (by && by->flip == network.metadata().adds_mirror_image && !main_faces.empty()) {
    report["decisions"] = decisions(*by, cosines(at::stack(main_faces)), owners,
                                    "cosines of the most prominent faces of two photos, as calibrated");
  }
  return report;
}
