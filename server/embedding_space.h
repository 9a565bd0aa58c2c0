// Which embeddings may be compared.
#pragma once
#include <string>

namespace pocketnet::server {

struct EmbeddingSpace {
  std::string model;
  std::string weights_sha256;
  bool flip = false;  // whether the mirror image's embedding is added
  int dimensions = 0;

  bool operator==(const EmbeddingSpace&) const = default;
};

}  // namespace pocketnet::server
