#include "pocketnet.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "library/context.h"
#include "library/model.h"
#include "library/status.h"

namespace {

using namespace pnf::library;

constexpr std::size_t kMostFileBytes = std::size_t{256} << 20;

[[noreturn]] void refuse(const std::string& what) { throw Refusal(POCKETNET_INVALID_ARGUMENT, what); }

void need(const void* argument, const char* name) {
  if (argument == nullptr) refuse(std::string(name) + " is NULL");
}

// The bytes that the first version's members take, which every caller's structure has.
constexpr std::size_t first_size(const pocketnet_open_options*) {
  return offsetof(pocketnet_open_options, max_steps) + sizeof(pocketnet_open_options::max_steps);
}
constexpr std::size_t first_size(const pocketnet_context_options*) {
  return offsetof(pocketnet_context_options, max_photo_side) + sizeof(pocketnet_context_options::max_photo_side);
}

// A structure of the caller's, whose version of it may be shorter or longer than this one.
template <typename Options>
Options completed(const Options* options) {
  Options complete = {};
  if (options == nullptr) return complete;
  if (options->size < first_size(options)) {
    refuse("the size of a structure is " + std::to_string(options->size) +
           "; expected sizeof the structure, at least " + std::to_string(first_size(options)));
  }
  std::memcpy(&complete, options, std::min(options->size, sizeof(Options)));
  return complete;
}

pocketnet_model* opened(Content content, const pocketnet_open_options& options) {
  return new pocketnet_model(std::move(content), options);
}

}  // namespace

const char* pocketnet_message(void) { return message(); }

uint32_t pocketnet_version(void) { return 100 * POCKETNET_VERSION_MAJOR + POCKETNET_VERSION_MINOR; }

pocketnet_status pocketnet_open(const char* path, const pocketnet_open_options* options, pocketnet_model** model) {
  return answer([&] {
    need(path, "path");
    need(model, "model");
    *model = nullptr;
    const pocketnet_open_options complete = completed(options);
    const std::size_t most = complete.max_file_bytes == 0 ? kMostFileBytes : complete.max_file_bytes;
    *model = opened(Content::of_file(path, most), complete);
  });
}

pocketnet_status pocketnet_open_memory(const void* content, size_t bytes, const pocketnet_open_options* options,
                                       pocketnet_model** model) {
  return answer([&] {
    need(content, "content");
    need(model, "model");
    *model = nullptr;
    *model = opened(Content({static_cast<const std::byte*>(content), bytes}), completed(options));
  });
}

void pocketnet_close(pocketnet_model* model) { delete model; }

pocketnet_status pocketnet_query(const pocketnet_model* model, pocketnet_info* info) {
  return answer([&] {
    need(model, "model");
    need(info, "info");
    if (info->size < sizeof(info->size)) refuse("the size of a structure is not set");
    const ModelFile& file = model->file;
    pocketnet_info facts = {};
    facts.size = info->size;
    facts.file_version = file.version;
    facts.embedding_dim = file.embedding_dim;
    facts.crop_side = static_cast<uint32_t>(model->crop_side());
    facts.takes_photos = model->takes_photos() ? 1 : 0;
    facts.half_precision = model->embedder[0].half ? 1 : 0;
    facts.thresholds = static_cast<uint32_t>(file.thresholds.size());
    facts.default_threshold = file.default_threshold;
    facts.isa = facts.half_precision != 0 ? model->kernels.bf16->name : model->kernels.fp32->name;
    facts.metadata = file.metadata.data();
    facts.metadata_bytes = file.metadata.size();
    std::copy(file.space.begin(), file.space.end(), facts.space);
    std::memcpy(info, &facts, std::min(info->size, sizeof(facts)));
  });
}

pocketnet_status pocketnet_threshold(const pocketnet_model* model, uint32_t index, double* cosine,
                                     double* false_accept_rate) {
  return answer([&] {
    need(model, "model");
    need(cosine, "cosine");
    need(false_accept_rate, "false_accept_rate");
    const auto& thresholds = model->file.thresholds;
    if (index >= thresholds.size()) {
      refuse("threshold " + std::to_string(index) + " of " + std::to_string(thresholds.size()));
    }
    *cosine = thresholds[index].cosine;
    *false_accept_rate = thresholds[index].false_accept_rate;
  });
}

pocketnet_status pocketnet_context_bytes(const pocketnet_model* model, const pocketnet_context_options* options,
                                         size_t* bytes) {
  return answer([&] {
    need(model, "model");
    need(bytes, "bytes");
    *bytes = ContextLayout(*model, completed(options)).all;
  });
}

pocketnet_status pocketnet_context_create(const pocketnet_model* model, const pocketnet_context_options* options,
                                          pocketnet_context** context) {
  return answer([&] {
    need(model, "model");
    need(context, "context");
    *context = nullptr;
    const pocketnet_context_options complete = completed(options);
    const ContextLayout layout(*model, complete);
    if (complete.memory == nullptr) {
      std::unique_ptr<void, decltype(&std::free)> taken(std::aligned_alloc(MemoryBlock::kUnit, layout.all), &std::free);
      if (taken == nullptr) throw std::bad_alloc();
      *context = new (taken.get()) pocketnet_context(*model, layout, static_cast<std::byte*>(taken.get()), true);
      taken.release();  // pocketnet_context_destroy() gives it back
      return;
    }
    if (reinterpret_cast<std::uintptr_t>(complete.memory) % MemoryBlock::kUnit != 0) {
      refuse("memory must begin at a multiple of " + std::to_string(MemoryBlock::kUnit) + " bytes");
    }
    if (complete.memory_bytes < layout.all) {
      refuse("memory_bytes is " + std::to_string(complete.memory_bytes) + "; the context takes " +
             std::to_string(layout.all));
    }
    *context = new (complete.memory) pocketnet_context(*model, layout, static_cast<std::byte*>(complete.memory), false);
  });
}

void pocketnet_context_destroy(pocketnet_context* context) {
  if (context == nullptr) return;
  const bool owned = context->owned();
  context->~pocketnet_context();
  if (owned) std::free(context);
}

pocketnet_status pocketnet_embed(pocketnet_context* context, const pocketnet_image* crops, size_t count,
                                 float* embeddings) {
  return answer([&] {
    need(context, "context");
    if (count == 0) return;
    need(crops, "crops");
    need(embeddings, "embeddings");
    context->embed(crops, count, embeddings);
  });
}

pocketnet_status pocketnet_analyze(pocketnet_context* context, const pocketnet_image* photo, pocketnet_face* faces,
                                   float* embeddings, size_t capacity, size_t* found) {
  return answer([&] {
    need(context, "context");
    need(photo, "photo");
    need(found, "found");
    *found = 0;
    if (capacity > 0) need(faces, "faces");
    *found = context->analyze(*photo, faces, embeddings, capacity);
  });
}

pocketnet_status pocketnet_compare(const float* one, const float* other, size_t embedding_dim, double* cosine) {
  return answer([&] {
    need(one, "one");
    need(other, "other");
    need(cosine, "cosine");
    double product = 0.0, squares = 0.0, other_squares = 0.0;
    for (size_t i = 0; i < embedding_dim; ++i) {
      product += static_cast<double>(one[i]) * other[i];
      squares += static_cast<double>(one[i]) * one[i];
      other_squares += static_cast<double>(other[i]) * other[i];
    }
    const double lengths = std::sqrt(squares) * std::sqrt(other_squares);
    if (!(lengths > 0.0) || !std::isfinite(lengths)) refuse("an embedding of no length, or that is not finite");
    *cosine = std::clamp(product / lengths, -1.0, 1.0);
  });
}
