// Tensors in the JSON and binary forms of the Open Inference Protocol (version 2, HTTP).
#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pocketnet::server {

struct InferenceRequest {
  nlohmann::json id;  // text, or null where the request has none
  std::string input_name;
  at::Tensor input;  // uint8 of the stated shape
  // The outputs that are asked for, and whether as binary; empty: all, as `binary` says.
  std::vector<std::pair<std::string, bool>> outputs;
  bool binary = false;
};

// Reads a body; `json_bytes` is the header Inference-Header-Content-Length: binary data follow so many bytes of JSON.
// There must be one input, of the type UINT8. Throws Problem.
InferenceRequest read_inference(std::string_view body, std::optional<std::size_t> json_bytes);

struct InferenceAnswer {
  std::string body;
  std::optional<std::size_t> json_bytes;  // set where binary data follow
};

// float32 outputs by name; those that the request asks for, all where it names none. Throws Problem for an unknown name.
InferenceAnswer write_inference(const InferenceRequest& request, const std::string& model,
                                const std::vector<std::pair<std::string, at::Tensor>>& outputs);

}  // namespace pocketnet::server
