// Any bytes as a model file: it is refused, or what it holds is run.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "pocketnet.h"
#include "require.h"
#include "small_model.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const pnf::fuzz::AlignedCopy file(data, size);
  pocketnet_open_options options = {};
  options.size = sizeof(options);
  // The digest would keep every changed file out.
  options.unverified = 1;
  options.max_working_bytes = 1 << 20;
  options.max_side = 48;
  options.max_steps = 48;
  pocketnet_model* model = nullptr;
  if (pocketnet_open_memory(file.data(), file.size(), &options, &model) != POCKETNET_OK) {
    REQUIRE(model == nullptr && pocketnet_message()[0] != 0);
    return 0;
  }
  pocketnet_info info = {};
  info.size = sizeof(info);
  REQUIRE(pocketnet_query(model, &info) == POCKETNET_OK);
  for (std::uint32_t i = 0; i < info.thresholds; ++i) {
    double cosine, rate;
    REQUIRE(pocketnet_threshold(model, i, &cosine, &rate) == POCKETNET_OK);
  }
  pocketnet_context_options with = {};
  with.size = sizeof(with);
  with.max_photo_side = 40;
  pocketnet_context* context = nullptr;
  if (pocketnet_context_create(model, &with, &context) == POCKETNET_OK) {
    const std::uint32_t side = std::max(info.crop_side, 40u);
    const std::vector<std::uint8_t> pixels(std::size_t{3} * side * side, 90);
    pocketnet_image image = {};
    image.pixels = pixels.data();
    image.width = image.height = info.crop_side;
    std::vector<float> embeddings(std::size_t{2} * info.embedding_dim);
    pocketnet_embed(context, &image, 1, embeddings.data());
    image.width = image.height = 40;
    pocketnet_face faces[2];
    std::size_t found;
    pocketnet_analyze(context, &image, faces, embeddings.data(), 2, &found);
  }
  pocketnet_context_destroy(context);
  pocketnet_close(model);
  return 0;
}
