// The .pnf file: networks, thresholds and metadata, read in place. docs/model_file.md states the format.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "library/sha256.h"

namespace pnf::library {

// What a call decides by, and how often different people are then taken for one.
struct Threshold {
  double false_accept_rate, cosine;
};

// A lowered network; see plan/program.h.
struct NetworkFile {
  std::span<const std::int32_t> program;
  std::span<const float> weights;
};

// Points into the content that it was read from.
struct ModelFile {
  std::uint32_t version;
  std::uint32_t embedding_dim;
  bool flip;                // embeddings are of the image and of its mirror image
  bool upright;             // faces are looked for whichever way up the photo is
  std::uint32_t max_faces;  // 0: all
  float least_score;
  std::uint32_t default_threshold;
  Digest space;
  std::span<const Threshold> thresholds;
  std::string_view metadata;
  NetworkFile embedder;
  NetworkFile detector;  // empty where the file takes crops only
};

// Checks all but what the programs say and, unless `verify`, the digest. Throws Refusal.
ModelFile read_model_file(std::span<const std::byte> content, bool verify);

}  // namespace pnf::library
