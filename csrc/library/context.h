// What one thread needs to run a model, all of it in one block of memory.
#pragma once
#include <cstddef>
#include <optional>
#include <span>

#include "library/context_detector.h"
#include "library/memory_block.h"
#include "library/model.h"
#include "pocketnet.h"

namespace pnf::library {

// Offsets of a context's parts from its beginning, in bytes.
struct ContextLayout {
  // Throws Refusal where the options ask for what the model has not, or for more than its limits.
  ContextLayout(const pocketnet_model& model, const pocketnet_context_options& options);

  int photo_side = 0;  // 0: no photos
  int detector_side = 0;
  std::size_t work_bytes;
  std::size_t work, crop, embedding, pixels = 0, maps = 0, rest = 0, all;
};

}  // namespace pnf::library

struct pocketnet_context {
  // Lies at the beginning of `memory` itself, which is layout.all bytes.
  pocketnet_context(const pocketnet_model& model, const pnf::library::ContextLayout& layout, std::byte* memory,
                    bool owned);

  // Throws pnf::library::Refusal, std::bad_alloc.
  void embed(const pocketnet_image* crops, std::size_t count, float* embeddings);
  std::size_t analyze(const pocketnet_image& photo, pocketnet_face* faces, float* embeddings, std::size_t capacity);

  // Whether the library took the memory, and has to give it back.
  bool owned() const { return owned_; }

 private:
  // Of the pixels at crop_.
  void embed_crop(bool bgr, float* embedding);

  const pocketnet_model& model_;
  const bool owned_;
  const int photo_side_;
  float* const work_;
  std::uint8_t* const crop_;
  float* const embedding_;
  std::optional<pnf::library::MemoryBlock> rest_;
  std::optional<pnf::library::ContextDetector> detector_;
};
