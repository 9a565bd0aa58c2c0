// What csrc/hosting makes of an exported file, as JSON: run_exported MODEL OPERATORS|- IMAGE.... The images are aligned
// crops. tests/test_hosting.py compares.
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "hosting/check.h"
#include "hosting/exported_network.h"
#include "hosting/operators.h"
#include "images/image.h"

namespace hosting = pocketnet::hosting;
namespace images = pocketnet::images;

namespace {

at::Tensor crops(const std::vector<std::string>& paths) {
  std::vector<at::Tensor> all;
  for (const std::string& path : paths) {
    images::Image image = images::read_image(path, {});
    all.push_back(at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte).clone());
  }
  return at::stack(all);
}

nlohmann::json rows(const at::Tensor& tensor) {
  nlohmann::json out = nlohmann::json::array();
  for (std::int64_t i = 0; i < tensor.size(0); ++i) {
    const float* const data = tensor[i].const_data_ptr<float>();
    out.push_back(std::vector<float>(data, data + tensor.size(1)));
  }
  return out;
}

template <typename Body>
nlohmann::json or_error(Body body) {
  try {
    return body();
  } catch (const std::exception& error) {
    return {{"error", hosting::one_line(error)}};
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  nlohmann::json printed;
  try {
    if (arguments.at(1) != "-") hosting::load_operators(arguments[1]);
    const std::unique_ptr<hosting::ExportedNetwork> network = hosting::load_network(arguments[0]);
    const at::Tensor rgb = crops({arguments.begin() + 2, arguments.end()});
    printed["model"] = network->metadata().model;
    printed["takes_photos"] = network->takes_photos();
    printed["embeds_crops"] = network->embeds_crops();
    printed["embeddings"] = or_error([&] { return rows(network->embed_crops(rgb)); });
    printed["none"] =
        or_error([&]() -> nlohmann::json { return network->embed_crops(rgb.slice(0, 0, 0)).sizes().vec(); });
    printed["wrong"] = or_error([&] { return rows(network->embed_crops(rgb.to(at::kFloat))); });
    printed["forward"] = or_error([&]() -> nlohmann::json { return network->forward(rgb).sizes().vec(); });
    printed["faces"] = or_error([&]() -> nlohmann::json { return network->faces(rgb[0]).boxes.size(0); });
    printed["check"] = network->check().has_value();
    printed["least_cosine"] = network->check() ? nlohmann::json(network->check()->least_cosine) : nlohmann::json();
    printed["cosine"] = or_error([&]() -> nlohmann::json { return hosting::check_cosine(*network); });
  } catch (const std::exception& error) {
    printed = {{"error", hosting::one_line(error)}};
  }
  std::printf("%s\n", printed.dump().c_str());
  return 0;
}
