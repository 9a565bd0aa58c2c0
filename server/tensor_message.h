// Tensors in the JSON and binary forms of the Open Inference Protocol (version 2, HTTP).
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pocketnet::server {

struct InferenceRequest {
  nlohmann::json id;  // text, or null where the request has none
  std::string input_name;
  std::vector<std::int64_t> shape;  // of the input, uint8
  // What the body holds as JSON, or behind it; as many values as the shape has.
  std::vector<std::uint8_t> numbers;
  std::string_view binary;  // in the body
  // The outputs that are asked for, each once, and whether as binary; empty: all, as `binary_outputs` says.
  std::vector<std::pair<std::string, bool>> outputs;
  bool binary_outputs = false;

  // The input's values, in row-major order.
  std::span<const std::uint8_t> values() const {
    if (!numbers.empty()) return numbers;
    return {reinterpret_cast<const std::uint8_t*>(binary.data()), binary.size()};
  }
};

// Reads a body, which has to outlive the result; `json_bytes` is the header Inference-Header-Content-Length: binary data
// follow so many bytes of JSON. There must be one input, of the type UINT8. Throws Problem.
InferenceRequest read_inference(std::string_view body, std::optional<std::size_t> json_bytes);

struct InferenceOutput {
  std::string name;
  std::vector<std::int64_t> shape;
  std::span<const float> values;
};

struct InferenceAnswer {
  std::string body;
  std::optional<std::size_t> json_bytes;  // set where binary data follow
};

// Those that the request asks for, all where it names none. Throws Problem for an unknown name.
InferenceAnswer write_inference(const InferenceRequest& request, const std::string& model,
                                const std::vector<InferenceOutput>& outputs);

}  // namespace pocketnet::server
