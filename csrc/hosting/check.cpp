#include "hosting/check.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>

#include <stdexcept>

#include "hosting/exported_network.h"
#include "images/image.h"

namespace pocketnet::hosting {

namespace {

// A photo of a check is small; a file that carries more is no export.
constexpr images::ImageLimits kLimits = {1 << 20, 4 << 20};

at::Tensor embedding_of(ExportedNetwork& network, const at::Tensor& picture) {
  if (!network.takes_photos()) return network.embed_crops(picture.unsqueeze(0))[0];
  const FoundFaces found = network.faces(picture);
  if (found.embeddings.size(0) != 1) {
    throw std::runtime_error("the file finds " + std::to_string(found.embeddings.size(0)) +
                             " faces in its check's photo, which shows one");
  }
  return found.embeddings[0];
}

}  // namespace

double check_cosine(ExportedNetwork& network) {
  if (!network.check()) throw std::runtime_error("the file carries no check of itself");
  const Check& check = *network.check();
  images::Image image = images::decode_image(check.png, kLimits);
  const at::Tensor picture = at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte);
  const at::Tensor found = embedding_of(network, picture).to(at::kDouble);
  const at::Tensor stated = at::tensor(check.embedding, at::kDouble);
  if (found.numel() != stated.numel()) {
    throw std::runtime_error("the file's embeddings have " + std::to_string(found.numel()) + " numbers, its check's " +
                             std::to_string(stated.numel()));
  }
  const at::Tensor lengths = found.norm().mul(stated.norm()).clamp_min(1e-12);
  return found.dot(stated).div(lengths).item<double>();
}

}  // namespace pocketnet::hosting
