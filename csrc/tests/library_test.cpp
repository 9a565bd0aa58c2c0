// The C library through its header: what it refuses, that calls take no memory, that it survives where there is none, and
// files that are damaged anywhere.
//
// With the arguments FILE PIXELS HEIGHT WIDTH, also the photo path of a real file, over RGB pixels.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "failing_allocations.h"
#include "library/sha256.h"
#include "library/sha256_blocks.h"
#include "model_file_builder.h"
#include "pocketnet.h"
#include "program_builder.h"

namespace pnf::test {
namespace {

constexpr int kSide = 20, kDim = 24;

struct Closer {
  void operator()(pocketnet_model* model) const { pocketnet_close(model); }
  void operator()(pocketnet_context* context) const { pocketnet_context_destroy(context); }
  void operator()(void* memory) const { std::free(memory); }
};
using Model = std::unique_ptr<pocketnet_model, Closer>;
using Context = std::unique_ptr<pocketnet_context, Closer>;
using Memory = std::unique_ptr<void, Closer>;

Memory lines(std::size_t bytes) { return Memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64)); }

// A file in memory that begins at a cache line.
class File {
 public:
  explicit File(const std::string& bytes) : bytes_(bytes.size()), memory_(lines(bytes.size())) {
    std::memcpy(memory_.get(), bytes.data(), bytes.size());
  }
  const void* data() const { return memory_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  Memory memory_;
};

std::vector<Part> parts_of(bool half) {
  const Encoded encoded = small_network(kSide, kSide, 1, kDim, 7, true, half);
  return {{1, facts(kDim, {1e-3, 0.35, 1e-5, 0.5})},
          {2, "{\"model\": \"test\"}"},
          {3, raw(encoded.words)},
          {4, raw(encoded.weights)}};
}

pocketnet_status open(const File& file, Model& model, const pocketnet_open_options* options = nullptr) {
  pocketnet_model* opened = nullptr;
  const pocketnet_status status = pocketnet_open_memory(file.data(), file.bytes(), options, &opened);
  model.reset(opened);
  return status;
}

pocketnet_status create(const Model& model, Context& context, const pocketnet_context_options* options = nullptr) {
  pocketnet_context* created = nullptr;
  const pocketnet_status status = pocketnet_context_create(model.get(), options, &created);
  context.reset(created);
  return status;
}

std::vector<std::uint8_t> random_pixels(std::size_t count, std::uint32_t seed) {
  Random random(seed);
  std::vector<std::uint8_t> pixels(count);
  for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random.integer(0, 255));
  return pixels;
}

pocketnet_image image_of(const std::vector<std::uint8_t>& pixels, std::uint32_t width, std::uint32_t height,
                         pocketnet_format format = POCKETNET_RGB) {
  pocketnet_image image = {};
  image.pixels = pixels.data();
  image.width = width;
  image.height = height;
  image.format = format;
  return image;
}

void digests() {
  const auto hex = [](const std::string& text) {
    std::string digits;
    for (const std::uint8_t byte : library::sha256(std::as_bytes(std::span(text)))) {
      digits += "0123456789abcdef"[byte >> 4];
      digits += "0123456789abcdef"[byte & 15];
    }
    return digits;
  };
  // Examples of FIPS 180-4.
  CHECK(hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "of abc: %s",
        hex("abc").c_str());
  CHECK(hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "of nothing");
  CHECK(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        "of two blocks");
  CHECK(hex(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "of a million");

  std::vector<std::uint8_t> blocks(std::size_t{64} * 37);
  Random random(5);
  for (std::uint8_t& byte : blocks) byte = static_cast<std::uint8_t>(random.integer(0, 255));
  library::Sha256State plain = {1, 2, 3, 4, 5, 6, 7, 8}, quick = plain;
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{37}}) {
    library::sha256_blocks_plain(plain, reinterpret_cast<const std::byte*>(blocks.data()), count);
    library::sha256_blocks()(quick, reinterpret_cast<const std::byte*>(blocks.data()), count);
    CHECK(plain == quick, "%zu blocks differ between instruction sets", count);
  }
}

void embedding(bool half) {
  const File file(file_of(parts_of(half)));
  Model model;
  CHECK(open(file, model) == POCKETNET_OK, "%s", pocketnet_message());
  pocketnet_info info = {};
  info.size = sizeof(info);
  CHECK(pocketnet_query(model.get(), &info) == POCKETNET_OK, "%s", pocketnet_message());
  CHECK(info.embedding_dim == kDim && info.crop_side == kSide && info.takes_photos == 0 && info.thresholds == 2 &&
            info.half_precision == (half ? 1u : 0u) && info.space[31] == 0x5a,
        "facts are not those of the file");
  CHECK(std::string(info.metadata, info.metadata_bytes) == "{\"model\": \"test\"}", "metadata are others");
  double cosine = 0, rate = 0;
  CHECK(pocketnet_threshold(model.get(), 1, &cosine, &rate) == POCKETNET_OK && cosine == 0.5 && rate == 1e-5,
        "the second threshold is %g at %g", cosine, rate);
  CHECK(pocketnet_threshold(model.get(), 2, &cosine, &rate) == POCKETNET_INVALID_ARGUMENT, "there is a third");

  Context context;
  CHECK(create(model, context) == POCKETNET_OK, "%s", pocketnet_message());
  constexpr int kCrops = 3;
  const std::vector<std::uint8_t> pixels = random_pixels(std::size_t{3} * kSide * kSide * kCrops, 1);
  pocketnet_image crops[kCrops];
  for (int i = 0; i < kCrops; ++i) {
    crops[i] = image_of(pixels, kSide, kSide);
    crops[i].pixels += std::size_t{3} * kSide * kSide * i;
  }
  std::vector<float> first(kCrops * kDim), other(kCrops * kDim);
  long before = allocations();
  CHECK(pocketnet_embed(context.get(), crops, kCrops, first.data()) == POCKETNET_OK, "%s", pocketnet_message());
  CHECK(allocations() == before, "the first call took memory %ld times", allocations() - before);
  for (int i = 0; i < kCrops; ++i) {
    double squares = 0;
    for (int d = 0; d < kDim; ++d) squares += first[i * kDim + d] * first[i * kDim + d];
    CHECK(std::abs(squares - 1) < 1e-5, "an embedding has length %g", std::sqrt(squares));
  }

  // The other order of colours, rows from the bottom up, and a stride.
  std::vector<std::uint8_t> turned(pixels.size() + kSide * kCrops * 5);
  constexpr std::ptrdiff_t kStride = 3 * kSide + 5;
  for (int y = 0; y < kSide; ++y) {
    for (int x = 0; x < kSide; ++x) {
      for (int c = 0; c < 3; ++c) {
        turned[(kSide - 1 - y) * kStride + 3 * x + 2 - c] = pixels[(y * kSide + x) * 3 + c];
      }
    }
  }
  pocketnet_image same = image_of(turned, kSide, kSide, POCKETNET_BGR);
  same.pixels += (kSide - 1) * kStride;
  same.stride = -kStride;
  CHECK(pocketnet_embed(context.get(), &same, 1, other.data()) == POCKETNET_OK, "%s", pocketnet_message());
  CHECK(std::equal(other.begin(), other.begin() + kDim, first.begin()), "the same picture has another embedding");

  // In memory of the caller, exactly as much as it takes, with others at work beside it.
  pocketnet_context_options options = {};
  options.size = sizeof(options);
  std::size_t bytes = 0;
  CHECK(pocketnet_context_bytes(model.get(), &options, &bytes) == POCKETNET_OK, "%s", pocketnet_message());
  std::vector<std::thread> threads;
  std::atomic<int> differing{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      const Memory own = lines(bytes);
      std::memset(own.get(), 0xff, bytes);
      pocketnet_context_options mine = options;
      mine.memory = own.get();
      mine.memory_bytes = bytes;
      Context context;
      std::vector<float> found(kCrops * kDim);
      if (create(model, context, &mine) != POCKETNET_OK ||
          pocketnet_embed(context.get(), crops, kCrops, found.data()) != POCKETNET_OK || found != first) {
        ++differing;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(differing == 0, "%d of 4 threads found other embeddings", differing.load());
}

void refusals() {
  const std::string good = file_of(parts_of(false));
  const File file(good);
  Model model;
  Context context;
  CHECK(pocketnet_open(nullptr, nullptr, nullptr) == POCKETNET_INVALID_ARGUMENT, "no path");
  pocketnet_model* opened = nullptr;
  CHECK(pocketnet_open("/nowhere/model.pnf", nullptr, &opened) == POCKETNET_IO && opened == nullptr, "no file");
  CHECK(std::strstr(pocketnet_message(), "/nowhere/model.pnf") != nullptr, "%s", pocketnet_message());
  CHECK(pocketnet_open("/", nullptr, &opened) == POCKETNET_IO, "a folder");
  pocketnet_open_options options = {};
  CHECK(open(file, model, &options) == POCKETNET_INVALID_ARGUMENT, "a structure without its size");
  options.size = sizeof(options);
  options.isa = "mmx";
  CHECK(open(file, model, &options) == POCKETNET_UNSUPPORTED && std::strstr(pocketnet_message(), "scalar") != nullptr,
        "%s", pocketnet_message());
  options.isa = "scalar";
  CHECK(open(file, model, &options) == POCKETNET_OK, "%s", pocketnet_message());
  const auto limited = [&](auto member, auto value, const char* name) {
    pocketnet_open_options limits = {};
    limits.size = sizeof(limits);
    limits.*member = value;
    CHECK(open(file, model, &limits) == POCKETNET_LIMIT && std::strstr(pocketnet_message(), name) != nullptr, "%s: %s",
          name, pocketnet_message());
  };
  limited(&pocketnet_open_options::max_working_bytes, 1000, "max_working_bytes");
  limited(&pocketnet_open_options::max_side, 16, "max_side");
  limited(&pocketnet_open_options::max_steps, 3, "max_steps");

  CHECK(open(file, model) == POCKETNET_OK, "%s", pocketnet_message());
  CHECK(create(model, context) == POCKETNET_OK, "%s", pocketnet_message());
  const std::vector<std::uint8_t> pixels = random_pixels(std::size_t{4} * kSide * kSide, 2);
  std::vector<float> found(kDim);
  const auto wrong = [&](pocketnet_image image, pocketnet_status status) {
    CHECK(pocketnet_embed(context.get(), &image, 1, found.data()) == status, "%u x %u of format %u: %s", image.width,
          image.height, image.format, pocketnet_message());
  };
  wrong(image_of(pixels, kSide - 1, kSide), POCKETNET_INVALID_ARGUMENT);
  wrong(image_of(pixels, kSide + 1, kSide), POCKETNET_LIMIT);
  wrong(image_of(pixels, kSide, 0), POCKETNET_INVALID_ARGUMENT);
  wrong(image_of(pixels, kSide, kSide, static_cast<pocketnet_format>(9)), POCKETNET_INVALID_ARGUMENT);
  wrong(image_of(pixels, kSide, kSide, POCKETNET_NV12), POCKETNET_INVALID_ARGUMENT);
  pocketnet_image narrow = image_of(pixels, kSide, kSide);
  narrow.stride = 3 * kSide - 1;
  wrong(narrow, POCKETNET_INVALID_ARGUMENT);
  std::size_t faces = 1;
  const pocketnet_image photo = image_of(pixels, kSide, kSide);
  CHECK(pocketnet_analyze(context.get(), &photo, nullptr, nullptr, 0, &faces) == POCKETNET_UNSUPPORTED && faces == 0,
        "%s", pocketnet_message());
  CHECK(pocketnet_embed(context.get(), nullptr, 0, nullptr) == POCKETNET_OK, "no crops");
  pocketnet_context_options room = {};
  room.size = sizeof(room);
  const Memory memory = lines(128);
  room.memory = memory.get();
  room.memory_bytes = 128;
  CHECK(create(model, context, &room) == POCKETNET_INVALID_ARGUMENT, "too little memory");
  room.memory = static_cast<char*>(memory.get()) + 8;
  CHECK(create(model, context, &room) == POCKETNET_INVALID_ARGUMENT, "memory within a line");

  double cosine = 0;
  const float one[2] = {3, 4}, other[2] = {4, 3}, none[2] = {0, 0}, wild[2] = {kNan, 1};
  CHECK(pocketnet_compare(one, other, 2, &cosine) == POCKETNET_OK && std::abs(cosine - 0.96) < 1e-12, "cosine %g",
        cosine);
  CHECK(pocketnet_compare(one, none, 2, &cosine) == POCKETNET_INVALID_ARGUMENT, "an embedding of no length");
  CHECK(pocketnet_compare(one, wild, 2, &cosine) == POCKETNET_INVALID_ARGUMENT, "an embedding of no number");

  // A size that would cut a pointer in two.
  pocketnet_open_options cut = {};
  cut.size = offsetof(pocketnet_open_options, isa) + 2;
  pocketnet_context_options small = {};
  small.size = offsetof(pocketnet_context_options, memory) + 2;
  std::size_t bytes;
  Model again;
  CHECK(open(file, again, &cut) == POCKETNET_INVALID_ARGUMENT, "options that end in a pointer");
  CHECK(pocketnet_context_bytes(model.get(), &small, &bytes) == POCKETNET_INVALID_ARGUMENT, "the same of a context");

  // A version of this structure that ends earlier.
  pocketnet_info shorter = {};
  shorter.size = offsetof(pocketnet_info, crop_side);
  shorter.crop_side = 77;
  CHECK(pocketnet_query(model.get(), &shorter) == POCKETNET_OK && shorter.embedding_dim == kDim &&
            shorter.crop_side == 77,
        "a shorter structure was written beyond its end");
}

// Embeds with whatever opens.
void try_file(const std::string& bytes, bool verified) {
  const File file(bytes);
  pocketnet_open_options options = {};
  options.size = sizeof(options);
  options.unverified = verified ? 0 : 1;
  options.max_working_bytes = 1 << 22;
  options.max_side = 64;
  Model model;
  const pocketnet_status status = open(file, model, &options);
  CHECK(status != POCKETNET_INTERNAL && status != POCKETNET_INVALID_ARGUMENT, "%s", pocketnet_message());
  CHECK((status == POCKETNET_OK) == (model != nullptr), "a status that does not fit the model");
  if (model == nullptr) return;
  pocketnet_info info = {};
  info.size = sizeof(info);
  pocketnet_query(model.get(), &info);
  const std::vector<std::uint8_t> pixels = random_pixels(std::size_t{3} * info.crop_side * info.crop_side, 3);
  const pocketnet_image crop = image_of(pixels, info.crop_side, info.crop_side);
  const std::unique_ptr<float[]> found(new float[info.embedding_dim]);
  Context context;
  CHECK(create(model, context) == POCKETNET_OK && pocketnet_embed(context.get(), &crop, 1, found.get()) == POCKETNET_OK,
        "%s", pocketnet_message());
}

void damaged_files() {
  const std::string good = file_of(parts_of(false));
  Random random(11);
  for (std::size_t length = 0; length < good.size(); length += length < 400 ? 1 : 97) {
    const File file(good.substr(0, length));
    Model model;
    CHECK(open(file, model) == POCKETNET_BAD_FILE, "%zu bytes of %zu: %s", length, good.size(), pocketnet_message());
  }
  for (int i = 0; i < 300; ++i) {
    std::string bytes = good;
    bytes[random.integer(0, static_cast<int>(bytes.size()) - 1)] ^= static_cast<char>(1 << random.integer(0, 7));
    const File file(bytes);
    Model model;
    const pocketnet_status status = open(file, model);
    CHECK(status == POCKETNET_BAD_FILE || status == POCKETNET_UNSUPPORTED, "a changed bit went unseen");
  }
  // Where the digest is not looked at, or fits: every word before the weights, and other sections.
  const std::size_t weights = good.size() - parts_of(false)[3].content.size();
  for (int i = 0; i < 6000 / kOneCaseIn; ++i) {
    std::string bytes = good;
    for (int n = random.integer(1, 3); n > 0; --n) {
      const int at = random.integer(16, static_cast<int>(weights) - 4) / 4 * 4;
      std::uint32_t word;
      std::memcpy(&word, bytes.data() + at, sizeof(word));
      const std::uint32_t values[] = {
          0, ~0u, 1, word + 1, word - 1, word * 2, 1 << 30, static_cast<std::uint32_t>(random.integer(0, 1 << 20))};
      word = random.pick(values);
      std::memcpy(bytes.data() + at, &word, sizeof(word));
    }
    try_file(bytes, false);
  }
  for (const std::size_t part : {0, 1, 2, 3}) {
    std::vector<Part> parts = parts_of(false);
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(part));
    try_file(file_of(parts), true);
    parts = parts_of(false);
    parts.push_back(parts[part]);
    try_file(file_of(parts), true);
    parts = parts_of(false);
    parts[part].content.pop_back();
    try_file(file_of(parts), true);
  }
  std::vector<Part> later = parts_of(false);
  later.push_back({77, "of a later version"});
  const File file(file_of(later));
  Model model;
  CHECK(open(file, model) == POCKETNET_OK, "a section of another kind: %s", pocketnet_message());
}

// Memory ends with every allocation in turn.
void without_memory(const File& file, const pocketnet_context_options& options) {
  for (long count = 0;; ++count) {
    Model model;
    Context context;
    fail_allocation(count + 1, Failing::kAll);
    pocketnet_status status = open(file, model);
    if (status == POCKETNET_OK) status = create(model, context, &options);
    const bool all = !allow_allocations();
    if (all) {
      CHECK(status == POCKETNET_OK, "%s", pocketnet_message());
      CHECK(count > 5, "only %ld allocations", count);
      return;
    }
    CHECK(status == POCKETNET_OUT_OF_MEMORY || status == POCKETNET_OK, "allocation %ld: %s", count,
          pocketnet_message());
    CHECK(count < 10000, "allocations do not end");
    if (count >= 10000) return;
  }
}

std::string content_of(const char* path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void photo_path(char** arguments) {
  const File file(content_of(arguments[0]));
  const std::string pixels = content_of(arguments[1]);
  const auto height = static_cast<std::uint32_t>(std::atoi(arguments[2]));
  const auto width = static_cast<std::uint32_t>(std::atoi(arguments[3]));
  CHECK(pixels.size() == std::size_t{3} * height * width, "the pixels are not %u x %u", height, width);
  Model model;
  CHECK(open(file, model) == POCKETNET_OK, "%s", pocketnet_message());
  pocketnet_info info = {};
  info.size = sizeof(info);
  pocketnet_query(model.get(), &info);
  pocketnet_context_options options = {};
  options.size = sizeof(options);
  options.max_photo_side = std::max(height, width);
  without_memory(file, options);
  Context context;
  CHECK(create(model, context, &options) == POCKETNET_OK, "%s", pocketnet_message());
  constexpr std::size_t kMost = 8;
  pocketnet_face faces[kMost] = {}, again[kMost] = {};
  std::vector<float> embeddings(kMost * info.embedding_dim), others(kMost * info.embedding_dim);
  pocketnet_image photo = {};
  photo.pixels = reinterpret_cast<const std::uint8_t*>(pixels.data());
  photo.width = width;
  photo.height = height;
  std::size_t found = 0, second = 0;
  const long before = allocations();
  CHECK(pocketnet_analyze(context.get(), &photo, faces, embeddings.data(), kMost, &found) == POCKETNET_OK, "%s",
        pocketnet_message());
  CHECK(allocations() == before, "the call took memory %ld times", allocations() - before);
  CHECK(found > 0, "no face");
  // What was in the memory before does not matter, nor does how many faces are asked for.
  CHECK(pocketnet_analyze(context.get(), &photo, again, others.data(), 1, &second) == POCKETNET_OK && second == found,
        "%zu faces, then %zu", found, second);
  CHECK(std::memcmp(faces, again, sizeof(faces[0])) == 0 &&
            std::equal(others.begin(), others.begin() + info.embedding_dim, embeddings.begin()),
        "the same photo has another first face");
  CHECK(again[1].score == 0.0f, "more was written than there is room for");
  // Every part of it, of grey and of planes, of one pixel and of a few.
  Random random(5);
  for (int i = 0; i < 24 / kOneCaseIn; ++i) {
    pocketnet_image part = photo;
    part.format = static_cast<std::uint32_t>(random.integer(0, 4));
    part.width = static_cast<std::uint32_t>(random.integer(1, static_cast<int>(width)));
    part.height = static_cast<std::uint32_t>(random.integer(1, static_cast<int>(height)));
    part.stride = std::ptrdiff_t{3} * width;
    if (part.format >= POCKETNET_NV12) {
      part.chroma = photo.pixels;
      part.chroma_stride = std::ptrdiff_t{3} * width;
    }
    const long calls = allocations();
    CHECK(pocketnet_analyze(context.get(), &part, again, others.data(), kMost, &second) == POCKETNET_OK,
          "%u x %u of format %u: %s", part.height, part.width, part.format, pocketnet_message());
    CHECK(allocations() == calls, "%u x %u took memory", part.height, part.width);
  }
  photo.height = options.max_photo_side + 1;
  CHECK(pocketnet_analyze(context.get(), &photo, faces, nullptr, kMost, &found) == POCKETNET_LIMIT && found == 0, "%s",
        pocketnet_message());
}

}  // namespace
}  // namespace pnf::test

int main(int argc, char** argv) {
  using namespace pnf::test;
  if (argc == 5) {
    photo_path(argv + 1);
    return check::result();
  }
  digests();
  embedding(false);
  embedding(true);
  refusals();
  damaged_files();
  pocketnet_context_options options = {};
  options.size = sizeof(options);
  without_memory(File(file_of(parts_of(false))), options);
  return check::result();
}
