// What an exported file says of itself (its record pocketnet_fast.json).
#pragma once
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace pocketnet::hosting {

struct Metadata {
  std::string model;           // the architecture, as in "pocketnet_s128"
  std::string weights_sha256;  // in hexadecimal
  int embedding_dim = 0;       // D
  std::string kernels;         // "fused" or "aten"
  std::string precision;       // "fp32", "bf16", ...
  std::string needs;           // what must be there where the file is loaded, for people
  std::string task;            // "faces" of a file that takes photos; empty of one that takes aligned crops
  std::string device;          // "cpu" or "cuda"
  std::string dtype;           // of the input: "uint8" or "float32"
  std::string color;           // channel order of the input: "rgb" or "bgr"
  // What a file that takes floats wants of each channel: (value / 255 - mean) / std. Zeros and ones of other files.
  std::array<float, 3> mean = {0, 0, 0};
  std::array<float, 3> std = {1, 1, 1};
  // Whether an embedding is the sum with that of the mirror image, by what the file itself computes.
  bool adds_mirror_image = false;
  std::vector<std::string> outputs;  // of a file that takes photos, in order
  nlohmann::ordered_json raw;        // all of it, as the file has it

  bool takes_photos() const { return task == "faces"; }
};

// Throws std::runtime_error, saying of what is wrong which key it is.
Metadata parse_metadata(const std::string& text);

}  // namespace pocketnet::hosting
