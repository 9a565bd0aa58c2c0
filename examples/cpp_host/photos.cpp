#include "photos.h"

#include <ATen/ATen.h>

#include <chrono>
#include <cmath>
#include <numbers>

#include "json.h"

namespace {

bool states(const std::string& metadata, const std::string& what) { return metadata.find(what) != std::string::npos; }

// 0, 90, 180 or 270: clockwise degrees by which the photo must be turned to be upright, by the landmarks [5, 2].
int turn_of(const at::Tensor& landmarks) {
  const at::Tensor down = landmarks.slice(0, 3, 5).mean(0) - landmarks.slice(0, 0, 2).mean(0);
  const double tilt = std::atan2(-down[0].item<float>(), down[1].item<float>()) * 180 / std::numbers::pi;
  return (static_cast<int>(std::lround(-tilt / 90)) % 4 + 4) % 4 * 90;
}

std::string points(const at::Tensor& landmarks) {
  std::string out = "[";
  for (std::int64_t i = 0; i < landmarks.size(0); ++i) out += (i == 0 ? "" : ", ") + list(landmarks[i]);
  return out + "]";
}

std::string face_as_json(const std::vector<at::Tensor>& found, std::int64_t i) {
  return "{\"box\": " + list(found[0][i]) + ", \"landmarks\": " + points(found[1][i]) +
         ", \"score\": " + number(found[2][i].item<float>()) + ", \"turn\": " + std::to_string(turn_of(found[1][i])) +
         ",\n  \"embedding\": " + list(found[3][i]) + "}";
}

}  // namespace

std::string faces_as_json(Network& network, const std::vector<std::string>& photos, const ImageLimits& limits,
                          const std::optional<Decider>& by) {
  const bool bgr = states(network.metadata(), "\"color\": \"bgr\"");
  const bool flip = states(network.metadata(), "\"adds_mirror_image\": true");
  std::string json = "[";
  std::vector<at::Tensor> main_faces;
  std::vector<std::size_t> owners;
  for (std::size_t i = 0; i < photos.size(); ++i) {
    Image image = read_image(photos[i], limits);
    const auto start = std::chrono::steady_clock::now();
    at::Tensor photo = at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte);
    if (bgr) photo = photo.flip({2});
    const std::vector<at::Tensor> found = network.faces(photo);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    json += (i == 0 ? "\n" : ",\n") + ("{\"file\": " + quoted(photos[i])) +
            ", \"milliseconds\": " + number(elapsed.count()) + ", \"faces\": [";
    for (std::int64_t face = 0; face < found[0].size(0); ++face) {
      json += (face == 0 ? "\n  " : ",\n  ") + face_as_json(found, face);
    }
    json += "]}";
    if (found[0].size(0) > 0) {
      main_faces.push_back(found[3][0]);
      owners.push_back(i);
    }
  }
  json += "\n],\n\"decisions\": ";
  // A threshold holds for embeddings of the kind that it was calibrated with.
  if (!by || by->flip != flip || main_faces.empty()) return json + "null";
  return json + decisions_as_json(*by, cosines(at::stack(main_faces)), owners,
                                  "cosines of the most prominent faces of two photos, as calibrated");
}
