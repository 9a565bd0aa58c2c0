// The header's calls in any order, with any options: what the header forbids is left out, and all else is answered.
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "input.h"
#include "pocketnet.h"
#include "require.h"
#include "small_model.h"

namespace {

using pnf::fuzz::AlignedCopy;
using pnf::fuzz::Input;

constexpr int kModels = 2, kContexts = 3;
constexpr std::size_t kMostFaces = 3;

class Caller {
 public:
  explicit Caller(Input& input) : input_(input) {}
  ~Caller() {
    for (int i = 0; i < kContexts; ++i) destroy(i);
    for (int i = 0; i < kModels; ++i) close(i);
  }
  Caller(const Caller&) = delete;

  void call() {
    switch (input_.below(8)) {
      case 0:
        return open();
      case 1:
        return close(input_.below(kModels));
      case 2:
        return create();
      case 3:
        return destroy(input_.below(kContexts));
      case 4:
        return ask();
      case 5:
        return embed();
      case 6:
        return analyze();
      default:
        return compare();
    }
  }

 private:
  struct Context {
    pocketnet_context* context = nullptr;
    int model = 0;
    std::unique_ptr<AlignedCopy> memory;
  };

  // A structure's size: that of today, a part of it, or more, of which the library reads and writes what it knows.
  std::size_t size_of_structure(std::size_t today) {
    switch (input_.below(4)) {
      case 0:
        return input_.value<std::uint8_t>() % (today + 1);
      case 1:
        return today + input_.value<std::uint16_t>();
      default:
        return today;
    }
  }

  // 0 is a default.
  std::uint32_t limit() { return input_.below(2) ? 0 : input_.value<std::uint32_t>(); }

  void open() {
    static const std::array<AlignedCopy, 4> files = {
        AlignedCopy(pnf::fuzz::small_model(false, false)), AlignedCopy(pnf::fuzz::small_model(true, false)),
        AlignedCopy(pnf::fuzz::small_model(false, true)), AlignedCopy(pnf::fuzz::small_model(true, true))};
    static constexpr std::array<const char*, 6> kIsas = {nullptr, "scalar", "avx2", "avx512", "none", ""};
    const int to = input_.below(kModels);
    close(to);
    const AlignedCopy& file = files[input_.below(4)];
    pocketnet_open_options options = {};
    options.size = size_of_structure(sizeof(options));
    options.isa = kIsas[input_.below(6)];
    options.unverified = input_.below(2);
    options.max_file_bytes = limit();
    options.max_working_bytes = limit();
    options.max_side = limit();
    options.max_steps = limit();
    const std::size_t bytes = input_.below(8) ? file.size() : input_.value<std::uint16_t>() % file.size();
    told(pocketnet_open_memory(file.data(), bytes, input_.below(4) ? &options : nullptr, &models_[to]));
  }

  void close(int which) {
    for (int i = 0; i < kContexts; ++i) {
      if (contexts_[i].context != nullptr && contexts_[i].model == which) destroy(i);
    }
    pocketnet_close(models_[which]);
    models_[which] = nullptr;
  }

  void create() {
    const int to = input_.below(kContexts), model = input_.below(kModels);
    destroy(to);
    pocketnet_context_options options = {};
    options.size = size_of_structure(sizeof(options));
    options.crops_only = static_cast<std::uint32_t>(input_.below(2));
    options.max_photo_side = input_.below(8) ? static_cast<std::uint32_t>(input_.below(70)) + 1 : limit();
    const bool given = input_.below(4) > 0;
    std::size_t bytes = 0;
    const pocketnet_status status = pocketnet_context_bytes(models_[model], given ? &options : nullptr, &bytes);
    told(status);
    if (status == POCKETNET_OK && bytes > kMostMemory) return;
    if (given && status == POCKETNET_OK && input_.below(2)) {
      options.memory_bytes = input_.below(4) ? bytes : bytes - 1 - input_.below(200) % bytes;
      const std::vector<std::uint8_t> filled(options.memory_bytes, 0xff);
      contexts_[to].memory = std::make_unique<AlignedCopy>(filled.data(), filled.size());
      options.memory = const_cast<void*>(contexts_[to].memory->data());
      if (input_.below(8) == 0 && options.memory_bytes > 8) options.memory = static_cast<char*>(options.memory) + 8;
    }
    contexts_[to].model = model;
    told(pocketnet_context_create(models_[model], given ? &options : nullptr, &contexts_[to].context));
  }

  void destroy(int which) {
    pocketnet_context_destroy(contexts_[which].context);
    contexts_[which] = {};
  }

  void ask() {
    const pocketnet_model* const model = models_[input_.below(kModels)];
    pocketnet_info info = {};
    info.size = size_of_structure(sizeof(info));
    told(pocketnet_query(model, &info));
    double cosine, rate;
    told(pocketnet_threshold(model, input_.value<std::uint32_t>() % 8, &cosine, &rate));
    REQUIRE(pocketnet_version() / 100 == POCKETNET_VERSION_MAJOR);
  }

  void embed() {
    const Context& with = contexts_[input_.below(kContexts)];
    const std::size_t count = input_.below(3);
    std::vector<pocketnet_image> crops(count);
    std::vector<std::vector<std::uint8_t>> pixels;
    for (pocketnet_image& crop : crops) crop = image(pixels, input_.below(4) ? kCropSide : 19);
    std::vector<float> embeddings(count * kDim);
    told(pocketnet_embed(with.context, crops.data(), count, embeddings.data()));
  }

  void analyze() {
    const Context& with = contexts_[input_.below(kContexts)];
    std::vector<std::vector<std::uint8_t>> pixels;
    const pocketnet_image photo = image(pixels, static_cast<std::uint32_t>(input_.below(72)));
    const std::size_t capacity = input_.below(kMostFaces + 1);
    std::vector<pocketnet_face> faces(capacity);
    std::vector<float> embeddings(capacity * kDim);
    std::size_t found;
    told(pocketnet_analyze(with.context, &photo, faces.data(), input_.below(2) ? embeddings.data() : nullptr, capacity,
                           &found));
  }

  void compare() {
    const std::vector<std::uint8_t> one = input_.bytes(4 * kDim), other = input_.bytes(4 * kDim);
    std::vector<float> left(kDim), right(kDim);
    std::memcpy(left.data(), one.data(), one.size());
    std::memcpy(right.data(), other.data(), other.size());
    double cosine;
    told(pocketnet_compare(left.data(), input_.below(8) ? right.data() : nullptr,
                           static_cast<std::size_t>(input_.below(kDim + 1)), &cosine));
  }

  pocketnet_image image(std::vector<std::vector<std::uint8_t>>& pixels, std::uint32_t side) {
    pocketnet_image made = {};
    made.width = made.height = side;
    made.format = static_cast<std::uint32_t>(input_.below(6));
    pixels.push_back(std::vector<std::uint8_t>(std::size_t{3} * side * side + 1, input_.value<std::uint8_t>()));
    pixels.push_back(std::vector<std::uint8_t>(std::size_t{side + 1} * (side + 1) / 2 + side + 2, 99));
    made.pixels = input_.below(16) ? pixels[pixels.size() - 2].data() : nullptr;
    made.chroma = input_.below(16) ? pixels.back().data() : nullptr;
    return made;
  }

  static void told(pocketnet_status status) {
    REQUIRE(status >= POCKETNET_OK && status < POCKETNET_INTERNAL);
    REQUIRE(status == POCKETNET_OK || pocketnet_message()[0] != 0);
  }

  static constexpr std::size_t kDim = 24, kMostMemory = 64u << 20;
  static constexpr std::uint32_t kCropSide = 20;

  Input& input_;
  std::array<pocketnet_model*, kModels> models_ = {};
  std::array<Context, kContexts> contexts_ = {};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr int kCalls = 64;
  Input input(data, size);
  Caller caller(input);
  for (int i = 0; i < kCalls && !input.ended(); ++i) caller.call();
  return 0;
}
