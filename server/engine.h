// Fixed workers that take jobs from one bounded queue, crops of several requests in one call.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "images/image.h"
#include "jobs.h"
#include "loaded_model.h"
#include "metrics.h"

namespace pocketnet::server {

struct EngineOptions {
  int workers = 1;
  std::int64_t batch = 8;                      // crops of one call; the fused kernels gain nothing by more
  std::chrono::microseconds batch_delay{500};  // how long the first crops of a call wait for others
  std::size_t queue = 256;                     // jobs that wait
  images::ImageLimits images;
};

class Engine {
 public:
  Engine(EngineOptions options, const ModelSlot& models, Metrics& metrics);
  // Ends after the jobs that are in the queue.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Throws Problem when the queue is full.
  void submit(const std::shared_ptr<Job>& job);

  const images::ImageLimits& image_limits() const { return options_.images; }

 private:
  using Jobs = std::vector<std::shared_ptr<Job>>;

  void work();
  Jobs take();
  void take_more_crops(Jobs& jobs, std::unique_lock<std::mutex>& lock);
  std::shared_ptr<Job> pop();
  void run_photo(PhotoJob& job, const ModelPointer& model);
  void run_crops(const Jobs& jobs, const ModelPointer& model);

  const EngineOptions options_;
  const ModelSlot& models_;
  Metrics& metrics_;
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::shared_ptr<Job>> queue_;
  bool ends_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace pocketnet::server
