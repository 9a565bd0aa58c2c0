// Photos and crops of any format, size and stride, of exactly the pixels that they state.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "input.h"
#include "pocketnet.h"
#include "require.h"
#include "small_model.h"

namespace {

using pnf::fuzz::AlignedCopy;
using pnf::fuzz::Input;

constexpr int kMostSide = 64;
constexpr std::size_t kFaces = 4;

struct Opened {
  AlignedCopy file;
  pocketnet_model* model = nullptr;
  pocketnet_context* context = nullptr;
  pocketnet_info info = {};

  Opened(bool half, const char* isa) : file(pnf::fuzz::small_model(half, true)) {
    pocketnet_open_options options = {};
    options.size = sizeof(options);
    options.isa = isa;
    REQUIRE(pocketnet_open_memory(file.data(), file.size(), &options, &model) == POCKETNET_OK);
    pocketnet_context_options with = {};
    with.size = sizeof(with);
    with.max_photo_side = kMostSide;
    REQUIRE(pocketnet_context_create(model, &with, &context) == POCKETNET_OK);
    info.size = sizeof(info);
    REQUIRE(pocketnet_query(model, &info) == POCKETNET_OK);
  }
  Opened(const Opened&) = delete;
  ~Opened() {
    pocketnet_context_destroy(context);
    pocketnet_close(model);
  }
};

// Rows of so many bytes each, at a stride that may be negative, in a block with nothing before or behind them.
struct Plane {
  std::vector<std::uint8_t> bytes;
  const std::uint8_t* first = nullptr;
  std::ptrdiff_t stride = 0;

  Plane(Input& input, std::ptrdiff_t row, int rows) {
    const int gap = input.below(3);
    stride = (row + gap) * (input.below(2) ? -1 : 1);
    const std::ptrdiff_t size = rows == 0 ? 0 : (row + gap) * (rows - 1) + row;
    bytes = input.bytes(static_cast<std::size_t>(size));
    first = bytes.data() + (stride < 0 && rows > 0 ? -stride * (rows - 1) : 0);
    if (gap == 0 && stride > 0 && input.below(2)) stride = 0;
  }
};

void check_faces(const Opened& opened, const pocketnet_face* faces, const float* embeddings, std::size_t found) {
  const std::size_t dim = opened.info.embedding_dim;
  for (std::size_t i = 0; i < (found < kFaces ? found : kFaces); ++i) {
    REQUIRE(faces[i].quality >= 0 && faces[i].quality <= 1 && faces[i].score >= 0 && faces[i].score <= 1);
    REQUIRE(faces[i].turn % 90 == 0 && faces[i].turn >= 0 && faces[i].turn < 360);
    for (const float side : faces[i].box) REQUIRE(std::isfinite(side));
    double square = 0;
    for (std::size_t d = 0; d < dim; ++d) square += double{embeddings[i * dim + d]} * embeddings[i * dim + d];
    REQUIRE(std::fabs(square - 1) < 1e-4);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Opened models[] = {{false, "scalar"}, {false, nullptr}, {true, nullptr}};
  Input input(data, size);
  const Opened& opened = models[input.below(3)];
  const bool crop = input.below(4) == 0;
  pocketnet_image image = {};
  image.format = static_cast<std::uint32_t>(input.below(6));
  image.width = crop ? opened.info.crop_side : static_cast<std::uint32_t>(input.below(kMostSide + 2));
  image.height = crop ? opened.info.crop_side : static_cast<std::uint32_t>(input.below(kMostSide + 2));
  const bool planes = image.format == POCKETNET_NV12 || image.format == POCKETNET_NV21;
  const int width = static_cast<int>(image.width), height = static_cast<int>(image.height);
  const Plane pixels(input, width * (planes || image.format == POCKETNET_GREY ? 1 : 3), height);
  const Plane chroma(input, planes ? (width + 1) / 2 * 2 : 0, planes ? (height + 1) / 2 : 0);
  image.pixels = pixels.first;
  image.stride = pixels.stride;
  if (planes) {
    image.chroma = chroma.first;
    image.chroma_stride = chroma.stride;
  }
  const bool too_near = width > 1 && input.below(16) == 0;
  if (too_near) image.stride = input.below(2) ? 1 : -1;

  std::vector<float> embeddings(kFaces * opened.info.embedding_dim), again(embeddings.size());
  if (crop) {
    if (pocketnet_embed(opened.context, &image, 1, embeddings.data()) != POCKETNET_OK) {
      REQUIRE(pocketnet_message()[0] != 0);
    }
    return 0;
  }
  pocketnet_face faces[kFaces] = {}, faces_again[kFaces] = {};
  std::size_t found = 0, found_again = 0;
  if (pocketnet_analyze(opened.context, &image, faces, embeddings.data(), kFaces, &found) != POCKETNET_OK) {
    REQUIRE(pocketnet_message()[0] != 0);
    return 0;
  }
  check_faces(opened, faces, embeddings.data(), found);
  REQUIRE(pocketnet_analyze(opened.context, &image, faces_again, again.data(), kFaces, &found_again) == POCKETNET_OK);
  REQUIRE(found == found_again && std::memcmp(faces, faces_again, sizeof(faces)) == 0 && embeddings == again);
  return 0;
}
