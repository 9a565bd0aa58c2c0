// /v2: the Open Inference Protocol, for clients that were made for it.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <charconv>

#include "problem.h"
#include "service.h"
#include "tensor_message.h"

namespace pocketnet::server {
namespace {

using nlohmann::json;

constexpr const char* kJsonBytes = "Inference-Header-Content-Length";

struct Described {
  const char* name;
  json inputs;
  json outputs;
};

json tensor(const char* name, const char* type, std::vector<std::int64_t> shape) {
  return {{"name", name}, {"datatype", type}, {"shape", std::move(shape)}};
}

std::vector<Described> models_of(const LoadedModel& model) {
  const std::int64_t dimensions = model.space.dimensions;
  std::vector<Described> models;
  if (model.network->embeds_crops()) {
    models.push_back({"crops", json::array({tensor("crops", "UINT8", {-1, hosting::kCropSide, hosting::kCropSide, 3})}),
                      json::array({tensor("embeddings", "FP32", {-1, dimensions})})});
  }
  if (model.network->takes_photos()) {
    models.push_back({"faces", json::array({tensor("photo", "UINT8", {-1, -1, 3})}),
                      json::array({tensor("boxes", "FP32", {-1, 4}), tensor("landmarks", "FP32", {-1, 5, 2}),
                                   tensor("scores", "FP32", {-1}), tensor("embeddings", "FP32", {-1, dimensions})})});
  }
  return models;
}

Described model_of(const LoadedModel& model, const Exchange& exchange) {
  const auto version = exchange.path.find("version");
  const std::string& name = exchange.path.find("model")->second;
  for (Described& described : models_of(model)) {
    if (name == described.name && (version == exchange.path.end() || version->second == "1")) {
      return std::move(described);
    }
  }
  throw Problem(ProblemKind::kNotFound, "There is no such model, or no such version of it.");
}

void server_metadata(Service&, Exchange& exchange) {
  exchange.answer(
      200, {{"name", "pocketnet_server"}, {"version", POCKETNET_VERSION}, {"extensions", {"binary_tensor_data"}}});
}

void model_metadata(Service& service, Exchange& exchange) {
  const Described model = model_of(*service.models().current(), exchange);
  exchange.answer(200, {{"name", model.name},
                        {"versions", {"1"}},
                        {"platform", "pocketnet_fast"},
                        {"inputs", model.inputs},
                        {"outputs", model.outputs}});
}

json config_tensors(const json& tensors) {
  json list = json::array();
  for (const json& each : tensors) {
    list.push_back({{"name", each["name"]},
                    {"data_type", "TYPE_" + each["datatype"].get<std::string>()},
                    {"dims", each["shape"]}});
  }
  return list;
}

void model_config(Service& service, Exchange& exchange) {
  const Described model = model_of(*service.models().current(), exchange);
  exchange.answer(200, {{"name", model.name},
                        {"platform", "pocketnet_fast"},
                        {"backend", "pocketnet_fast"},
                        {"max_batch_size", 0},
                        {"input", config_tensors(model.inputs)},
                        {"output", config_tensors(model.outputs)}});
}

void model_ready(Service& service, Exchange& exchange) {
  const Described model = model_of(*service.models().current(), exchange);
  exchange.answer(200, {{"name", model.name}, {"ready", true}});
}

void repository_index(Service& service, Exchange& exchange) {
  json list = json::array();
  for (const Described& model : models_of(*service.models().current())) {
    list.push_back({{"name", model.name}, {"version", "1"}, {"state", "READY"}, {"reason", ""}});
  }
  exchange.answer(200, list);
}

using Outputs = std::vector<std::pair<std::string, at::Tensor>>;

Outputs infer_crops(Service& service, Exchange& exchange, const at::Tensor& crops) {
  const bool fits = crops.dim() == 4 && crops.size(0) > 0 && crops.size(1) == hosting::kCropSide &&
                    crops.size(2) == hosting::kCropSide && crops.size(3) == 3;
  if (!fits) throw Problem(ProblemKind::kBadRequest, "'crops' must have the shape [N, 112, 112, 3], N at least 1.");
  if (crops.size(0) > service.limits().crops) {
    throw Problem(ProblemKind::kTooLarge,
                  "At most " + std::to_string(service.limits().crops) + " crops are taken in a request.");
  }
  auto job = std::make_shared<CropsJob>(exchange.deadline, exchange.socket);
  job->crops = crops;
  service.run(exchange, job);
  return {{"embeddings", job->embeddings.contiguous()}};
}

Outputs infer_faces(Service& service, Exchange& exchange, const at::Tensor& photo) {
  const bool fits = photo.dim() == 3 && photo.size(0) > 0 && photo.size(1) > 0 && photo.size(2) == 3;
  if (!fits) throw Problem(ProblemKind::kBadRequest, "'photo' must have the shape [H, W, 3].");
  if (static_cast<std::uint64_t>(photo.size(0) * photo.size(1)) > service.engine().image_limits().pixels) {
    throw Problem(ProblemKind::kTooLarge, "The photo has more pixels than are accepted.");
  }
  auto job = std::make_shared<PhotoJob>(exchange.deadline, exchange.socket);
  job->pixels = photo;
  service.run(exchange, job);
  const auto count = static_cast<std::int64_t>(job->faces.size());
  const at::Tensor boxes = at::empty({count, 4});
  const at::Tensor landmarks = at::empty({count, 5, 2});
  const at::Tensor scores = at::empty({count});
  const at::Tensor embeddings = at::empty({count, job->model->space.dimensions});
  for (std::int64_t i = 0; i < count; ++i) {
    const Face& face = job->faces[static_cast<std::size_t>(i)];
    std::copy(face.box.begin(), face.box.end(), boxes.data_ptr<float>() + 4 * i);
    std::copy_n(face.landmarks.front().data(), 10, landmarks.data_ptr<float>() + 10 * i);
    scores.data_ptr<float>()[i] = face.score;
    std::copy(face.embedding.begin(), face.embedding.end(), embeddings.data_ptr<float>() + embeddings.size(1) * i);
  }
  return {{"boxes", boxes}, {"landmarks", landmarks}, {"scores", scores}, {"embeddings", embeddings}};
}

std::optional<std::size_t> json_bytes_of(const httplib::Request& request) {
  if (!request.has_header(kJsonBytes)) return std::nullopt;
  const std::string text = request.get_header_value(kJsonBytes);
  std::size_t bytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Problem(ProblemKind::kBadRequest, std::string(kJsonBytes) + " is no number of bytes.");
  }
  return bytes;
}

void infer(Service& service, Exchange& exchange) {
  const c10::InferenceMode guard;
  const Described model = model_of(*service.models().current(), exchange);
  const InferenceRequest request = read_inference(exchange.body, json_bytes_of(exchange.request));
  const std::string expected = model.inputs.front()["name"];
  if (request.input_name != expected)
    throw Problem(ProblemKind::kBadRequest, "The input is called '" + expected + "'.");
  const at::Tensor input = at::empty(request.shape, at::kByte);
  std::ranges::copy(request.values(), input.data_ptr<std::uint8_t>());
  exchange.body.clear();
  const Outputs computed =
      expected == "crops" ? infer_crops(service, exchange, input) : infer_faces(service, exchange, input);
  std::vector<InferenceOutput> outputs;
  for (const auto& [name, tensor] : computed) {
    outputs.push_back({.name = name,
                       .shape = tensor.sizes().vec(),
                       .values = {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())}});
  }
  const InferenceAnswer answer = write_inference(request, model.name, outputs);
  exchange.response.status = 200;
  exchange.response.set_content(answer.body, answer.json_bytes ? "application/octet-stream" : "application/json");
  if (answer.json_bytes) exchange.response.set_header(kJsonBytes, std::to_string(*answer.json_bytes));
}

}  // namespace

void add_inference_routes(Router& router, Service& service) {
  const auto add = [&](const char* method, const std::string& pattern, void (*handle)(Service&, Exchange&)) {
    const bool post = std::string_view(method) == "POST";
    router.add({.method = method,
                .pattern = pattern,
                .body = post ? BodyKind::kBytes : BodyKind::kNone,
                .handle = [&service, handle](Exchange& exchange) { handle(service, exchange); }});
  };
  add("GET", "/v2", server_metadata);
  add("POST", "/v2/repository/index", repository_index);
  for (const std::string model : {"/v2/models/{model}", "/v2/models/{model}/versions/{version}"}) {
    add("GET", model, model_metadata);
    add("GET", model + "/ready", model_ready);
    add("GET", model + "/config", model_config);
    add("POST", model + "/infer", infer);
  }
}

}  // namespace pocketnet::server
