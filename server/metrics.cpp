#include "metrics.h"

#include <prometheus/text_serializer.h>

#include <sstream>

#include "http_server.h"
#include "loaded_model.h"

namespace pocketnet::server {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Histogram;

const Histogram::BucketBoundaries kSeconds{0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                           0.2,    0.5,   1,     2,     5,    10,   30};
const Histogram::BucketBoundaries kCrops{1, 2, 4, 8, 16, 32, 64, 128, 256};

// A metric with a value for each choice of labels.
template <typename Builder>
auto& family(Builder builder, prometheus::Registry& registry, const std::string& name, const char* help) {
  return builder.Name(name).Help(help).Register(registry);
}

}  // namespace

Metrics::Metrics()
    : requests_(
          family(BuildCounter(), registry_, "pocketnet_requests_total", "Requests answered, by route and status.")),
      request_seconds_(family(BuildHistogram(), registry_, "pocketnet_request_seconds",
                              "Time from the first byte of a request to the last of its answer, by route.")),
      stages_(family(BuildHistogram(), registry_, "pocketnet_stage_seconds",
                     "Time of one stage: queue, decode, faces, crops, search.")),
      batches_(family(BuildHistogram(), registry_, "pocketnet_batch_crops", "Crops that were embedded in one call.")
                   .Add({}, kCrops)),
      faces_(family(BuildCounter(), registry_, "pocketnet_faces_total", "Faces found in photos.").Add({})),
      queue_(family(BuildGauge(), registry_, "pocketnet_queue_depth", "Jobs that wait for a worker.").Add({})),
      model_(family(BuildGauge(), registry_, "pocketnet_model_info", "1 for the model in use.")),
      reloads_(family(BuildCounter(), registry_, "pocketnet_reloads_total", "Attempts to load the model again.")),
      dropped_(family(BuildCounter(), registry_, "pocketnet_dropped_jobs_total",
                      "Jobs that no worker ran, by reason: deadline, gone.")) {}

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
