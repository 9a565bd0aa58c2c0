// What workers do: photos to faces, and aligned crops to embeddings.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "exchange.h"
#include "loaded_model.h"
#include "memory_budget.h"

namespace pocketnet::server {

struct Face {
  std::array<float, 4> box{};  // left, top, width, height, in pixels of the photo
  std::array<std::array<float, 2>, 5> landmarks{};
  float score = 0;
  int turn = 0;                  // clockwise degrees by which the photo was turned to be upright
  std::vector<float> embedding;  // of length 1
};

// One piece of work and what came of it; shared by the thread that asked for it and the worker.
class Job {
 public:
  using Clock = std::chrono::steady_clock;

  Job(Clock::time_point deadline, int socket) : deadline(deadline), socket(socket) {}
  virtual ~Job() = default;

  // Waits for the result. Throws Problem at the deadline, and what the worker threw.
  void wait();

  void finish(std::exception_ptr error = nullptr);

  const Clock::time_point deadline;
  const int socket;  // the client's; -1: none
  const Clock::time_point queued = Clock::now();
  std::shared_ptr<MemoryBudget::Share> memory;  // of the body that it was made of
  // To be read after wait().
  ModelPointer model;
  StageTimes stages;

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
  std::exception_ptr error_;
};

struct PhotoJob final : Job {
  using Job::Job;

  std::string encoded;
  at::Tensor pixels;  // uint8 RGB [H, W, 3], in place of `encoded`
  std::string called = "The photo";

  int width = 0;
  int height = 0;
  std::vector<Face> faces;  // the most prominent first
};

struct CropsJob final : Job {
  using Job::Job;

  at::Tensor crops;  // uint8 RGB [N, 112, 112, 3]

  at::Tensor embeddings;  // float32 [N, D] of length 1
};

// Anything else that takes a processor for a while, such as a search.
struct TaskJob final : Job {
  using Job::Job;

  const char* stage = "task";
  std::function<void()> task;
};

}  // namespace pocketnet::server
