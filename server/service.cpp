#include "service.h"

#include <utility>

#include "log.h"
#include "problem.h"

namespace pocketnet::server {

Service::Service(ModelOptions model, EngineOptions engine, ServiceLimits limits,
                 std::unique_ptr<GalleryStore> galleries)
    : limits_(limits),
      galleries_(std::move(galleries)),
      models_(model, load_model(model)),
      engine_(std::move(engine), models_, metrics_) {
  metrics_.set_model(*models_.current());
}

ModelPointer Service::reload() {
  try {
    const ModelPointer model = models_.reload([this](const EmbeddingSpace& space) -> std::optional<std::string> {
      return galleries_ ? galleries_->objection(space) : std::nullopt;
    });
    metrics_.set_model(*model);
    metrics_.add_reload(true);
    log(LogLevel::kInfo, "reloaded", {{"model", model->brief()}});
    return model;
  } catch (const Problem& problem) {
    metrics_.add_reload(false);
    log(LogLevel::kWarn, "reload_refused", {{"what", problem.what()}});
    throw;
  }
}

void Service::submit(const Exchange& exchange, const std::shared_ptr<Job>& job) {
  job->memory = exchange.memory;
  engine_.submit(job);
}

void Service::wait(Exchange& exchange, const std::shared_ptr<Job>& job) {
  job->wait();
  exchange.stages.insert(exchange.stages.end(), job->stages.begin(), job->stages.end());
}

void Service::run(Exchange& exchange, const std::shared_ptr<Job>& job) {
  submit(exchange, job);
  wait(exchange, job);
}

std::shared_ptr<PhotoJob> Service::photo_job(Exchange& exchange, std::string encoded, const std::string& called) const {
  if (encoded.empty()) throw Problem(ProblemKind::kUnreadable, called + " has no bytes.");
  auto job = std::make_shared<PhotoJob>(exchange.deadline, exchange.socket);
  job->encoded = std::move(encoded);
  job->called = called;
  return job;
}

std::string take_photo(Exchange& exchange) {
  if (!exchange.multipart) return std::move(exchange.body);
  return exchange.part("photo").content;
}

nlohmann::json face_as_json(const Face& face, bool with_embedding) {
  nlohmann::json landmarks = nlohmann::json::array();
  for (const std::array<float, 2>& point : face.landmarks) landmarks.push_back(shortest(point));
  nlohmann::json json{{"box", shortest(face.box)},
                      {"landmarks", std::move(landmarks)},
                      {"score", shortest(face.score)},
                      {"turn", face.turn}};
  if (with_embedding) json["embedding"] = shortest(face.embedding);
  return json;
}

}  // namespace pocketnet::server
