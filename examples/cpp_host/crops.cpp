#include "crops.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>

#include <chrono>
#include <numeric>
#include <stdexcept>

#include "npy.h"
#include "timing.h"

namespace hosting = pocketnet::hosting;
namespace images = pocketnet::images;

namespace {

// uint8 [N, 112, 112, 3]
at::Tensor read_crops(const std::vector<std::string>& paths, const images::ImageLimits& limits) {
  std::vector<at::Tensor> crops;
  for (const std::string& path : paths) {
    images::Image image = images::read_image(path, limits);
    if (image.height != hosting::kCropSide || image.width != hosting::kCropSide) {
      throw std::runtime_error(path + ": is " + std::to_string(image.width) + "x" + std::to_string(image.height) +
                               "; an aligned crop of 112x112 is needed");
    }
    crops.push_back(at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte).clone());
  }
  return at::stack(crops);
}

Json crops_decisions(hosting::ExportedNetwork& network, const at::Tensor& rgb, const Decider& by) {
  std::vector<std::size_t> names(rgb.size(0));
  std::iota(names.begin(), names.end(), std::size_t{0});
  return decisions(by, cosines(embed(network, rgb, by.flip)), names,
                   by.flip ? "cosines of embeddings with those of the mirror images added, as calibrated"
                           : "cosines of the embeddings above, as calibrated");
}

}  // namespace

at::Tensor embed(hosting::ExportedNetwork& network, const at::Tensor& rgb, bool flip) {
  at::Tensor embedding = network.forward(network.input_of(rgb));
  if (flip) embedding = embedding.add(network.forward(network.input_of(rgb.flip({2}))));
  return embedding.contiguous();
}

Json crops_report(hosting::ExportedNetwork& network, const Options& options, const std::optional<Decider>& by) {
  const at::Tensor rgb = read_crops(options.images, options.limits);
  const at::Tensor input = network.input_of(rgb);
  const at::Tensor embedding = network.forward(input).contiguous();
  const double one = median_milliseconds(network, input.slice(0, 0, 1).contiguous(), options.repeat);
  const double all = median_milliseconds(network, input, options.repeat);
  Json report;
  report["embeddings"] = Json::array();
  for (std::size_t i = 0; i < options.images.size(); ++i) {
    const at::Tensor row = embedding[static_cast<std::int64_t>(i)];
    report["embeddings"].push_back({{"file", options.images[i]}, {"embedding", list(row)}});
  }
  report["similarity_of"] = "the embeddings above, of the images alone";
  report["similarity"] = list(cosines(embedding));
  report["decisions"] = by ? crops_decisions(network, rgb, *by) : Json();
  report["threads"] = options.threads;
  report["milliseconds"] = one;
  report["milliseconds_per_image"] = all / static_cast<double>(input.size(0));
  if (options.callers > 0) report["callers_agree"] = callers_agree(network, input, embedding, options.callers);
  return report;
}

Json embed_file(hosting::ExportedNetwork& network, const Options& options) {
  CropFile crops(options.crops);
  std::vector<at::Tensor> parts;
  const auto start = std::chrono::steady_clock::now();
  for (auto pixels = crops.read(options.batch); !pixels.empty(); pixels = crops.read(options.batch)) {
    const auto size = static_cast<std::int64_t>(pixels.size()) / CropFile::kBytes;
    const at::Tensor rgb = at::from_blob(pixels.data(), {size, CropFile::kSide, CropFile::kSide, 3}, at::kByte);
    parts.push_back(embed(network, rgb, options.flip));
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (parts.empty()) throw std::runtime_error(options.crops + ": holds no crop");
  const at::Tensor all = at::cat(parts);
  write_npy(options.output, all.const_data_ptr<float>(), all.size(0), all.size(1));
  return {{"crops", all.size(0)}, {"flip", options.flip}, {"threads", options.threads}, {"seconds", elapsed.count()}};
}
