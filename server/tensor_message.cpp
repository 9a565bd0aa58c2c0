#include "tensor_message.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "exchange.h"
#include "problem.h"

namespace pocketnet::server {
namespace {

using nlohmann::json;

constexpr std::int64_t kMostElements = std::int64_t{1} << 31;
constexpr std::size_t kMostDimensions = 8;

[[noreturn]] void bad(const std::string& detail) { throw Problem(ProblemKind::kBadRequest, detail); }

const json& member(const json& object, const char* key, json::value_t type, const char* what) {
  const auto found = object.find(key);
  if (found == object.end() || found->type() != type) bad(std::string("'") + key + "' must be " + what + ".");
  return *found;
}

bool binary_flag(const json& object, const char* key, bool otherwise) {
  const auto parameters = object.find("parameters");
  if (parameters == object.end()) return otherwise;
  if (!parameters->is_object()) bad("'parameters' must be an object.");
  const auto flag = parameters->find(key);
  if (flag == parameters->end()) return otherwise;
  if (!flag->is_boolean()) bad(std::string("'") + key + "' must be true or false.");
  return flag->get<bool>();
}

std::vector<std::int64_t> shape_of(const json& input) {
  std::vector<std::int64_t> shape;
  std::int64_t elements = 1;
  for (const json& size : member(input, "shape", json::value_t::array, "a list of sizes")) {
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() > kMostElements) bad("A size must be a whole number.");
    shape.push_back(size.get<std::int64_t>());
    elements *= std::max<std::int64_t>(shape.back(), 1);
    if (elements > kMostElements || shape.size() > kMostDimensions) bad("The shape is too large.");
  }
  return shape;
}

std::int64_t elements_of(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

// The numbers of nested lists, in row-major order. Lists that are nested deeper than tensors are cannot be meant.
void append_numbers(const json& data, std::vector<std::uint8_t>& numbers, std::size_t depth) {
  if (depth > kMostDimensions) bad("'data' is nested too deeply.");
  for (const json& value : data) {
    if (value.is_array()) {
      append_numbers(value, numbers, depth + 1);
      continue;
    }
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > 255) bad("UINT8 data are whole numbers to 255.");
    numbers.push_back(value.get<std::uint8_t>());
  }
}

at::Tensor input_tensor(const json& input, std::string_view binary) {
  const std::vector<std::int64_t> shape = shape_of(input);
  const std::string type = member(input, "datatype", json::value_t::string, "text").get<std::string>();
  if (type != "UINT8") bad("The input's datatype must be UINT8.");
  const auto parameters = input.find("parameters");
  const bool is_binary =
      parameters != input.end() && parameters->is_object() && parameters->contains("binary_data_size");
  std::vector<std::uint8_t> numbers;
  if (!is_binary) {
    append_numbers(member(input, "data", json::value_t::array, "a list of numbers"), numbers, 1);
    binary = {reinterpret_cast<const char*>(numbers.data()), numbers.size()};
  } else {
    const json& size = (*parameters)["binary_data_size"];
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() != binary.size()) {
      bad("'binary_data_size' is not the number of bytes behind the JSON.");
    }
  }
  if (elements_of(shape) != static_cast<std::int64_t>(binary.size())) {
    bad("The shape has " + std::to_string(elements_of(shape)) + " elements, and there are " +
        std::to_string(binary.size()) + ".");
  }
  at::Tensor tensor = at::empty(shape, at::kByte);
  std::memcpy(tensor.data_ptr(), binary.data(), binary.size());
  return tensor;
}

// "data" of an output, flat, as the protocol allows.
json numbers_of(const at::Tensor& tensor) {
  return shortest({tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())});
}

}  // namespace

InferenceRequest read_inference(std::string_view body, std::optional<std::size_t> json_bytes) {
  if (json_bytes && *json_bytes > body.size()) bad("Inference-Header-Content-Length is more than the body has.");
  const std::string_view text = body.substr(0, json_bytes.value_or(body.size()));
  // Parsing keeps no stack per nesting, but a tree of empty lists takes a hundred times its text.
  const json parsed = json::parse(
      text,
      [](int depth, json::parse_event_t, json&) {
        if (depth > 16) bad("The JSON is nested too deeply.");
        return true;
      },
      false);
  if (!parsed.is_object()) bad("The body must be a JSON object.");
  InferenceRequest request;
  if (const auto id = parsed.find("id"); id != parsed.end()) {
    if (!id->is_string()) bad("'id' must be text.");
    request.id = *id;
  }
  const json& inputs = member(parsed, "inputs", json::value_t::array, "a list");
  if (inputs.size() != 1 || !inputs.front().is_object()) bad("There must be one input.");
  request.input_name = member(inputs.front(), "name", json::value_t::string, "text").get<std::string>();
  request.input = input_tensor(inputs.front(), body.substr(text.size()));
  request.binary = binary_flag(parsed, "binary_data_output", false);
  if (const auto outputs = parsed.find("outputs"); outputs != parsed.end()) {
    if (!outputs->is_array()) bad("'outputs' must be a list.");
    for (const json& output : *outputs) {
      if (!output.is_object()) bad("An output must be an object.");
      request.outputs.emplace_back(member(output, "name", json::value_t::string, "text").get<std::string>(),
                                   binary_flag(output, "binary_data", request.binary));
    }
  }
  return request;
}

InferenceAnswer write_inference(const InferenceRequest& request, const std::string& model,
                                const std::vector<std::pair<std::string, at::Tensor>>& outputs) {
  std::vector<std::pair<std::string, bool>> wanted = request.outputs;
  if (wanted.empty()) {
    for (const auto& [name, tensor] : outputs) wanted.emplace_back(name, request.binary);
  }
  json answer{{"model_name", model}, {"model_version", "1"}, {"outputs", json::array()}};
  if (!request.id.is_null()) answer["id"] = request.id;
  std::string binary;
  bool any_binary = false;
  for (const auto& [name, as_binary] : wanted) {
    const auto found = std::find_if(outputs.begin(), outputs.end(), [&](const auto& o) { return o.first == name; });
    if (found == outputs.end()) bad("The model has no output '" + name + "'.");
    const at::Tensor tensor = found->second.contiguous();
    json output{{"name", name}, {"datatype", "FP32"}, {"shape", tensor.sizes().vec()}};
    if (as_binary) {
      output["parameters"] = {{"binary_data_size", tensor.nbytes()}};
      binary.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
      any_binary = true;
    } else {
      output["data"] = numbers_of(tensor);
    }
    answer["outputs"].push_back(std::move(output));
  }
  const std::string text = answer.dump();
  if (!any_binary) return {text, std::nullopt};
  return {text + binary, text.size()};
}

}  // namespace pocketnet::server
