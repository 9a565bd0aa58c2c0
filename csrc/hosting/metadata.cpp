#include "hosting/metadata.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string_view>

namespace pocketnet::hosting {

namespace {

using Json = nlohmann::ordered_json;

// The value of a key that must be there; throws with the key's name.
template <typename Value>
Value stated(const Json& object, const char* key) {
  try {
    return object.at(key).get<Value>();
  } catch (const Json::exception&) {
    throw std::runtime_error(std::string("its metadata do not state '") + key + "' as they should");
  }
}

template <typename Value>
Value stated(const Json& object, const char* key, const Value& otherwise) {
  return object.contains(key) && !object[key].is_null() ? stated<Value>(object, key) : otherwise;
}

std::string one_of(const Json& object, const char* key, std::initializer_list<std::string_view> accepted) {
  const auto text = stated<std::string>(object, key);
  if (std::find(accepted.begin(), accepted.end(), text) != accepted.end()) return text;
  std::string known;
  for (const std::string_view value : accepted) known.append(known.empty() ? "'" : " or '").append(value).append("'");
  throw std::runtime_error(std::string("its metadata state '") + key + "' as '" + text + "'; expected " + known);
}

}  // namespace

Metadata parse_metadata(const std::string& text) {
  Metadata metadata;
  metadata.raw = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const Json& all = metadata.raw;
  if (!all.is_object()) throw std::runtime_error("its metadata are no JSON object");
  metadata.model = stated<std::string>(all, "model");
  metadata.weights_sha256 = stated<std::string>(all, "weights_sha256");
  metadata.embedding_dim = stated<int>(all, "embedding_dim");
  metadata.kernels = one_of(all, "kernels", {"fused", "aten"});
  metadata.precision = stated<std::string>(all, "precision");
  metadata.needs = stated<std::string>(all, "needs");
  metadata.device = all.contains("device") ? one_of(all, "device", {"cpu", "cuda"}) : "cpu";
  if (all.contains("task")) metadata.task = one_of(all, "task", {"faces"});
  const Json input = stated<Json>(all, "input");
  metadata.dtype = one_of(input, "dtype", {"uint8", "float32"});
  metadata.color = one_of(input, "color", {"rgb", "bgr"});
  if (metadata.dtype == "float32") {
    const Json normalization = stated<Json>(input, "normalization");
    metadata.mean = stated<std::array<float, 3>>(normalization, "mean");
    metadata.std = stated<std::array<float, 3>>(normalization, "std");
  }
  metadata.adds_mirror_image = stated(all, "adds_mirror_image", false);
  metadata.outputs = stated(all, "outputs", std::vector<std::string>());
  return metadata;
}

}  // namespace pocketnet::hosting
