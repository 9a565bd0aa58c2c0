// What the routes work with.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine.h"
#include "gallery_store.h"
#include "loaded_model.h"
#include "metrics.h"
#include "router.h"

namespace pocketnet::server {

struct ServiceLimits {
  std::int64_t crops = 256;  // of one request
};

class Service {
 public:
  Service(ModelOptions model, EngineOptions engine, ServiceLimits limits, std::unique_ptr<GalleryStore> galleries);

  ModelSlot& models() { return models_; }
  Engine& engine() { return engine_; }
  Metrics& metrics() { return metrics_; }
  const ServiceLimits& limits() const { return limits_; }
  // Null where no folder of galleries was given.
  GalleryStore* galleries() { return galleries_.get(); }

  // Loads the model again; see ModelSlot::reload. The log and the metrics tell of it.
  ModelPointer reload();

  // Hands a job of a request to the workers.
  void submit(const Exchange& exchange, const std::shared_ptr<Job>& job);
  // Waits for it; its stages are added to the exchange's.
  void wait(Exchange& exchange, const std::shared_ptr<Job>& job);
  // Both.
  void run(Exchange& exchange, const std::shared_ptr<Job>& job);
  // The job of an encoded photo, which it takes.
  std::shared_ptr<PhotoJob> photo_job(Exchange& exchange, std::string encoded, const std::string& called) const;

 private:
  const ServiceLimits limits_;
  Metrics metrics_;
  std::unique_ptr<GalleryStore> galleries_;
  ModelSlot models_;
  Engine engine_;
};

// The body of a request that is one photo: the whole of it, or its part `photo`.
std::string take_photo(Exchange& exchange);

// As answers state a face.
nlohmann::json face_as_json(const Face& face, bool with_embedding);

void add_face_routes(Router& router, Service& service);
void add_gallery_routes(Router& router, Service& service);
void add_inference_routes(Router& router, Service& service);
// `draining` says whether the service takes no new requests.
void add_operation_routes(Router& router, Service& service, std::function<bool()> draining);

}  // namespace pocketnet::server
