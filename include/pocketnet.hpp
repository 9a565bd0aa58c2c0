// PocketNet's C library for C++20: what is opened closes itself, and what fails throws. See pocketnet.h.
#pragma once
#include <pocketnet.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pocketnet {

// A call that did not succeed; what() is the library's own message.
class Error : public std::runtime_error {
 public:
  Error(pocketnet_status status, const char* message) : std::runtime_error(message), status_(status) {}
  pocketnet_status status() const noexcept { return status_; }

 private:
  pocketnet_status status_;
};

inline void check(pocketnet_status status) {
  if (status != POCKETNET_OK) throw Error(status, pocketnet_message());
}

// One of the structures that begin with their size, with all other members at their defaults.
template <typename Structure>
Structure make() {
  Structure structure{};
  structure.size = sizeof(Structure);
  return structure;
}

struct Threshold {
  double cosine, false_accept_rate;
};

// An open model, which threads may share. It must outlive its contexts.
class Model {
 public:
  explicit Model(const std::string& path, const pocketnet_open_options& options = make<pocketnet_open_options>()) {
    pocketnet_model* opened = nullptr;
    check(pocketnet_open(path.c_str(), &options, &opened));
    model_.reset(opened);
  }
  // The content of a file, at a multiple of 64 bytes, which must stay as it is.
  explicit Model(std::span<const std::byte> content,
                 const pocketnet_open_options& options = make<pocketnet_open_options>()) {
    pocketnet_model* opened = nullptr;
    check(pocketnet_open_memory(content.data(), content.size(), &options, &opened));
    model_.reset(opened);
  }

  pocketnet_info info() const {
    auto facts = make<pocketnet_info>();
    check(pocketnet_query(model_.get(), &facts));
    return facts;
  }
  std::string_view metadata() const {
    const pocketnet_info facts = info();
    return {facts.metadata, facts.metadata_bytes};
  }
  // Of number `index`, or that which the weights' maker recommends.
  Threshold threshold(std::uint32_t index) const {
    Threshold found{};
    check(pocketnet_threshold(model_.get(), index, &found.cosine, &found.false_accept_rate));
    return found;
  }
  Threshold threshold() const { return threshold(info().default_threshold); }

  const pocketnet_model* get() const noexcept { return model_.get(); }

 private:
  struct Close {
    void operator()(pocketnet_model* model) const { pocketnet_close(model); }
  };
  std::unique_ptr<pocketnet_model, Close> model_;
};

// What one thread at a time needs to run a model.
class Context {
 public:
  explicit Context(const Model& model, const pocketnet_context_options& options = make<pocketnet_context_options>())
      : dim_(model.info().embedding_dim) {
    pocketnet_context* created = nullptr;
    check(pocketnet_context_create(model.get(), &options, &created));
    context_.reset(created);
  }

  // To `embeddings`, embedding_dim floats for each crop.
  void embed(std::span<const pocketnet_image> crops, std::span<float> embeddings) {
    if (embeddings.size() != crops.size() * dim_) throw std::invalid_argument("embeddings of another size");
    check(pocketnet_embed(context_.get(), crops.data(), crops.size(), embeddings.data()));
  }

  // The faces of a photo, at most `faces.size()`; returns how many it has. `embeddings` has room for as many, or is empty.
  std::size_t analyze(const pocketnet_image& photo, std::span<pocketnet_face> faces, std::span<float> embeddings = {}) {
    if (!embeddings.empty() && embeddings.size() != faces.size() * dim_) {
      throw std::invalid_argument("embeddings of another size");
    }
    std::size_t found = 0;
    check(pocketnet_analyze(context_.get(), &photo, faces.data(), embeddings.empty() ? nullptr : embeddings.data(),
                            faces.size(), &found));
    return found;
  }

 private:
  struct Destroy {
    void operator()(pocketnet_context* context) const { pocketnet_context_destroy(context); }
  };
  std::unique_ptr<pocketnet_context, Destroy> context_;
  std::size_t dim_;
};

// The cosine of two embeddings of one size.
inline double compare(std::span<const float> one, std::span<const float> other) {
  if (one.size() != other.size()) throw std::invalid_argument("embeddings of different sizes");
  double cosine = 0.0;
  check(pocketnet_compare(one.data(), other.data(), one.size(), &cosine));
  return cosine;
}

}  // namespace pocketnet
