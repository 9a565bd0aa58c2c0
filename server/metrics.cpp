#include "metrics.h"

#include <prometheus/text_serializer.h>

#include <sstream>

#include "http_server.h"
#include "loaded_model.h"

namespace pocketnet::server {
namespace {

using prometheus::Histogram;

const Histogram::BucketBoundaries kSeconds{0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                           0.2,    0.5,   1,     2,     5,    10,   30};
const Histogram::BucketBoundaries kCrops{1, 2, 4, 8, 16, 32, 64, 128, 256};

}  // namespace

Metrics::Metrics()
    : requests_(prometheus::BuildCounter()
                    .Name("pocketnet_requests_total")
                    .Help("Requests answered, by route and status.")
                    .Register(registry_)),
      request_seconds_(prometheus::BuildHistogram()
                           .Name("pocketnet_request_seconds")
                           .Help("Time from the first byte of a request to the last of its answer, by route.")
                           .Register(registry_)),
      stages_(prometheus::BuildHistogram()
                  .Name("pocketnet_stage_seconds")
                  .Help("Time of one stage: queue, decode, faces, crops, search.")
                  .Register(registry_)),
      batches_(prometheus::BuildHistogram()
                   .Name("pocketnet_batch_crops")
                   .Help("Crops that were embedded in one call.")
                   .Register(registry_)
                   .Add({}, kCrops)),
      faces_(prometheus::BuildCounter()
                 .Name("pocketnet_faces_total")
                 .Help("Faces found in photos.")
                 .Register(registry_)
                 .Add({})),
      queue_(prometheus::BuildGauge()
                 .Name("pocketnet_queue_depth")
                 .Help("Jobs that wait for a worker.")
                 .Register(registry_)
                 .Add({})),
      model_(prometheus::BuildGauge().Name("pocketnet_model_info").Help("1 for the model in use.").Register(registry_)),
      reloads_(prometheus::BuildCounter()
                   .Name("pocketnet_reloads_total")
                   .Help("Attempts to load the model again.")
                   .Register(registry_)),
      dropped_(prometheus::BuildCounter()
                   .Name("pocketnet_dropped_jobs_total")
                   .Help("Jobs that no worker ran, by reason: deadline, gone.")
                   .Register(registry_)) {}

void Metrics::add_request(const RequestRecord& record) {
  const std::string route = record.route.empty() ? "none" : record.route;
  requests_.Add({{"route", route}, {"method", record.method}, {"code", std::to_string(record.status)}}).Increment();
  request_seconds_.Add({{"route", route}}, kSeconds).Observe(record.milliseconds / 1000);
  for (const auto& [stage, milliseconds] : record.stages) add_stage(stage, milliseconds);
}

void Metrics::add_stage(const char* stage, double milliseconds) {
  stages_.Add({{"stage", stage}}, kSeconds).Observe(milliseconds / 1000);
}

void Metrics::add_batch(std::size_t crops) { batches_.Observe(static_cast<double>(crops)); }

void Metrics::add_faces(std::size_t faces) { faces_.Increment(static_cast<double>(faces)); }

void Metrics::set_queue(std::size_t depth) { queue_.Set(static_cast<double>(depth)); }

void Metrics::set_model(const LoadedModel& model) {
  const std::lock_guard lock(model_mutex_);
  if (current_model_ != nullptr) model_.Remove(current_model_);
  current_model_ = &model_.Add({{"model", model.space.model},
                                {"weights_sha256", model.space.weights_sha256},
                                {"precision", model.network->metadata().precision},
                                {"isa", model.isa}});
  current_model_->Set(1);
}

void Metrics::add_reload(bool done) { reloads_.Add({{"outcome", done ? "done" : "refused"}}).Increment(); }

void Metrics::add_dropped(const char* reason) { dropped_.Add({{"reason", reason}}).Increment(); }

std::string Metrics::text() const {
  std::ostringstream stream;
  prometheus::TextSerializer().Serialize(stream, registry_.Collect());
  return stream.str();
}

}  // namespace pocketnet::server
