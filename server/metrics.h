// What /metrics tells, in Prometheus' text format.
#pragma once
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <mutex>
#include <string>

namespace pocketnet::server {

struct LoadedModel;
struct RequestRecord;

class Metrics {
 public:
  Metrics();

  void add_request(const RequestRecord& record);
  void add_stage(const char* stage, double milliseconds);
  void add_batch(std::size_t crops);
  void add_faces(std::size_t faces);
  void set_queue(std::size_t depth);
  void set_model(const LoadedModel& model);
  void add_reload(bool done);
  // Work that was not done because its client had gone or its time was up.
  void add_dropped(const char* reason);

  std::string text() const;

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Histogram>& request_seconds_;
  prometheus::Family<prometheus::Histogram>& stages_;
  prometheus::Histogram& batches_;
  prometheus::Counter& faces_;
  prometheus::Gauge& queue_;
  prometheus::Family<prometheus::Gauge>& model_;
  std::mutex model_mutex_;
  prometheus::Gauge* current_model_ = nullptr;
  prometheus::Family<prometheus::Counter>& reloads_;
  prometheus::Family<prometheus::Counter>& dropped_;
};

}  // namespace pocketnet::server
