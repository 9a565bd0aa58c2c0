#include "tensor_message.h"

#include <algorithm>

#include "hosting/shortest.h"
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

// A body's JSON without the numbers of its input, which would take sixteen bytes each, and empty lists of them more: they
// are taken as they are parsed, in row-major order.
class Parsed {
 public:
  explicit Parsed(std::string_view text)
      : json_(json::parse(
            text, [this](int depth, json::parse_event_t event, const json& value) { return on(depth, event, value); },
            false)) {}

  const json& tree() const { return json_; }
  std::vector<std::uint8_t> take_numbers() { return std::move(numbers_); }

 private:
  // Whether the value stays in the tree.
  bool on(int depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    if (depth > kDeepest) bad("The JSON is nested too deeply.");
    if (in_data_) return on_data(depth, event, value);
    if (++kept_ > kMostValues) bad("The JSON has too many values beside the data.");
    if (event == Event::key && depth == 1) in_inputs_ = value == "inputs";
    if (event == Event::key && depth == kInputDepth && in_inputs_ && value == "data") {
      in_data_ = true;
      numbers_.clear();
    }
    return true;
  }

  // Lists that are nested deeper than tensors are cannot be meant.
  bool on_data(int depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    const bool outermost = depth == kInputDepth;
    if (event == Event::array_end || (event == Event::value && outermost)) {
      in_data_ = !outermost;
      return outermost;
    }
    if (event == Event::array_start) {
      if (depth >= kInputDepth + static_cast<int>(kMostDimensions)) bad("'data' is nested too deeply.");
      return true;
    }
    if (event != Event::value || !value.is_number_unsigned() || value.get<std::uint64_t>() > 255) {
      bad("UINT8 data are whole numbers to 255.");
    }
    numbers_.push_back(value.get<std::uint8_t>());
    return false;
  }

  static constexpr int kDeepest = 16;
  static constexpr int kInputDepth = 3;  // of the members of an object of the list "inputs"
  static constexpr std::size_t kMostValues = 10'000;

  bool in_inputs_ = false;
  bool in_data_ = false;
  std::size_t kept_ = 0;
  std::vector<std::uint8_t> numbers_;
  json json_;
};

// What the input's object says of it; its values are in the request, or stand behind the JSON.
void read_input(const json& input, std::string_view binary, InferenceRequest& request) {
  request.input_name = member(input, "name", json::value_t::string, "text").get<std::string>();
  request.shape = shape_of(input);
  const std::string type = member(input, "datatype", json::value_t::string, "text").get<std::string>();
  if (type != "UINT8") bad("The input's datatype must be UINT8.");
  const auto parameters = input.find("parameters");
  const bool is_binary =
      parameters != input.end() && parameters->is_object() && parameters->contains("binary_data_size");
  if (!is_binary) {
    member(input, "data", json::value_t::array, "a list of numbers");
  } else {
    const json& size = (*parameters)["binary_data_size"];
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() != binary.size()) {
      bad("'binary_data_size' is not the number of bytes behind the JSON.");
    }
    request.numbers.clear();
    request.binary = binary;
  }
  const auto given = static_cast<std::int64_t>(request.values().size());
  if (elements_of(request.shape) != given) {
    bad("The shape has " + std::to_string(elements_of(request.shape)) + " elements, and there are " +
        std::to_string(given) + ".");
  }
}

void read_outputs(const json& outputs, InferenceRequest& request) {
  if (!outputs.is_array()) bad("'outputs' must be a list.");
  for (const json& output : outputs) {
    if (!output.is_object()) bad("An output must be an object.");
    const std::string name = member(output, "name", json::value_t::string, "text").get<std::string>();
    const bool known = std::any_of(request.outputs.begin(), request.outputs.end(),
                                   [&](const auto& earlier) { return earlier.first == name; });
    if (known) bad("The output '" + name + "' is asked for more than once.");
    request.outputs.emplace_back(name, binary_flag(output, "binary_data", request.binary_outputs));
  }
}

}  // namespace

InferenceRequest read_inference(std::string_view body, std::optional<std::size_t> json_bytes) {
  if (json_bytes && *json_bytes > body.size()) bad("Inference-Header-Content-Length is more than the body has.");
  const std::string_view text = body.substr(0, json_bytes.value_or(body.size()));
  Parsed parsed(text);
  const json& message = parsed.tree();
  if (!message.is_object()) bad("The body must be a JSON object.");
  InferenceRequest request;
  if (const auto id = message.find("id"); id != message.end()) {
    if (!id->is_string()) bad("'id' must be text.");
    request.id = *id;
  }
  const json& inputs = member(message, "inputs", json::value_t::array, "a list");
  if (inputs.size() != 1 || !inputs.front().is_object()) bad("There must be one input.");
  request.numbers = parsed.take_numbers();
  read_input(inputs.front(), body.substr(text.size()), request);
  request.binary_outputs = binary_flag(message, "binary_data_output", false);
  if (const auto outputs = message.find("outputs"); outputs != message.end()) read_outputs(*outputs, request);
  return request;
}

InferenceAnswer write_inference(const InferenceRequest& request, const std::string& model,
                                const std::vector<InferenceOutput>& outputs) {
  std::vector<std::pair<std::string, bool>> wanted = request.outputs;
  if (wanted.empty()) {
    for (const InferenceOutput& output : outputs) wanted.emplace_back(output.name, request.binary_outputs);
  }
  json answer{{"model_name", model}, {"model_version", "1"}, {"outputs", json::array()}};
  if (!request.id.is_null()) answer["id"] = request.id;
  std::string binary;
  bool any_binary = false;
  for (const auto& [name, as_binary] : wanted) {
    const auto found =
        std::find_if(outputs.begin(), outputs.end(), [&output = name](const auto& o) { return o.name == output; });
    if (found == outputs.end()) bad("The model has no output '" + name + "'.");
    json output{{"name", name}, {"datatype", "FP32"}, {"shape", found->shape}};
    if (as_binary) {
      output["parameters"] = {{"binary_data_size", found->values.size_bytes()}};
      binary.append(reinterpret_cast<const char*>(found->values.data()), found->values.size_bytes());
      any_binary = true;
    } else {
      // Flat, as the protocol allows.
      output["data"] = hosting::shortest(found->values);
    }
    answer["outputs"].push_back(std::move(output));
  }
  const std::string text = answer.dump();
  if (!any_binary) return {text, std::nullopt};
  return {text + binary, text.size()};
}

}  // namespace pocketnet::server
