#include "hosting/metadata.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string_view>

namespace pocketnet::hosting {

namespace {

using Json = nlohmann::ordered_json;

// What a file may nest; values below are copied and freed by functions that call themselves.
constexpr int kMostNested = 32;

[[noreturn]] void refuse(const char* key) {
  throw std::runtime_error(std::string("its metadata do not state '") + key + "' as they should");
}

// The value of a key that must be there; throws with the key's name.
const Json& value_of(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) refuse(key);
  return object[key];
}

template <typename Value>
Value stated(const Json& object, const char* key) {
  try {
    return value_of(object, key).get<Value>();
  } catch (const Json::exception&) {
    refuse(key);
  }
}

template <typename Value>
Value stated(const Json& object, const char* key, const Value& otherwise) {
  return object.contains(key) && !object[key].is_null() ? stated<Value>(object, key) : otherwise;
}

int dimension(const Json& object, const char* key) {
  constexpr std::uint64_t kMost = 1 << 16;
  const Json& value = value_of(object, key);
  if (!value.is_number_unsigned() || value == 0 || value > kMost) refuse(key);
  return value.get<int>();
}

// A number for each channel of the input.
std::array<float, 3> channels(const Json& object, const char* key) {
  const Json& values = value_of(object, key);
  std::array<float, 3> result;
  if (!values.is_array() || values.size() != result.size()) refuse(key);
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (!values[i].is_number()) refuse(key);
    const auto value = values[i].get<double>();
    if (!(std::abs(value) <= std::numeric_limits<float>::max())) refuse(key);
    result[i] = static_cast<float>(value);
  }
  return result;
}

std::string one_of(const Json& object, const char* key, std::initializer_list<std::string_view> accepted) {
  const auto text = stated<std::string>(object, key);
  if (std::find(accepted.begin(), accepted.end(), text) != accepted.end()) return text;
  std::string known;
  for (const std::string_view value : accepted) known.append(known.empty() ? "'" : " or '").append(value).append("'");
  // What a message can hold in its one line.
  constexpr std::size_t kMostShown = 40;
  const bool shown =
      text.size() <= kMostShown && std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
  throw std::runtime_error(std::string("its metadata state '") + key + "' as " +
                           (shown ? "'" + text + "'" : "something else") + "; expected " + known);
}

Json parsed(const std::string& text) {
  bool deep = false;
  Json json = Json::parse(
      text,
      [&deep](int depth, Json::parse_event_t, Json&) {
        deep = deep || depth > kMostNested;
        return !deep;
      },
      /*allow_exceptions=*/false);
  if (deep || !json.is_object()) throw std::runtime_error("its metadata are no JSON object");
  return json;
}

}  // namespace

Metadata parse_metadata(const std::string& text) {
  Metadata metadata;
  metadata.raw = parsed(text);
  const Json& all = metadata.raw;
  metadata.model = stated<std::string>(all, "model");
  metadata.weights_sha256 = stated<std::string>(all, "weights_sha256");
  metadata.embedding_dim = dimension(all, "embedding_dim");
  metadata.kernels = one_of(all, "kernels", {"fused", "aten"});
  metadata.precision = stated<std::string>(all, "precision");
  metadata.needs = stated<std::string>(all, "needs");
  metadata.device = all.contains("device") ? one_of(all, "device", {"cpu", "cuda"}) : "cpu";
  if (all.contains("task")) metadata.task = one_of(all, "task", {"faces"});
  const Json& input = value_of(all, "input");
  metadata.dtype = one_of(input, "dtype", {"uint8", "float32"});
  metadata.color = one_of(input, "color", {"rgb", "bgr"});
  if (metadata.dtype == "float32") {
    const Json& normalization = value_of(input, "normalization");
    metadata.mean = channels(normalization, "mean");
    metadata.std = channels(normalization, "std");
    if (std::count(metadata.std.begin(), metadata.std.end(), 0.0f) != 0) refuse("std");
  }
  metadata.adds_mirror_image = stated(all, "adds_mirror_image", false);
  metadata.outputs = stated(all, "outputs", std::vector<std::string>());
  return metadata;
}

}  // namespace pocketnet::hosting
