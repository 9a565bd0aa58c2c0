#include "hosting/check.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "hosting/exported_network.h"
#include "images/image.h"

namespace pocketnet::hosting {

namespace {

// A photo of a check is small; a file that carries more is no export.
constexpr images::ImageLimits kLimits = {1 << 20, 4 << 20};

std::vector<std::uint8_t> from_base64(std::string_view text) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::vector<std::uint8_t> bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char digit : text) {
    const std::size_t value = kDigits.find(digit);
    if (value == std::string_view::npos) throw std::runtime_error("its check's picture is no base64");
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<std::uint8_t>(bits >> count));
  }
  return bytes;
}

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

Check parse_check(const std::string& text) {
  try {
    const auto stated = nlohmann::json::parse(text);
    return {from_base64(stated.at("image").get<std::string>()), stated.at("embedding").get<std::vector<float>>(),
            stated.at("least_cosine").get<double>()};
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error("its check does not state image, embedding and least_cosine as it should");
  }
}

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
