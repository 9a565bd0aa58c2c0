#include "engine.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "connection.h"
#include "hosting/face_turn.h"
#include "problem.h"

namespace pocketnet::server {
namespace {

using Clock = Job::Clock;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

std::vector<Face> faces_of(const hosting::FoundFaces& found) {
  const at::Tensor boxes = found.boxes.contiguous();
  const at::Tensor landmarks = found.landmarks.contiguous();
  const at::Tensor scores = found.scores.contiguous();
  const at::Tensor embeddings = found.embeddings.contiguous();
  const std::int64_t dimensions = embeddings.size(1);
  std::vector<Face> faces(static_cast<std::size_t>(boxes.size(0)));
  for (std::size_t i = 0; i < faces.size(); ++i) {
    Face& face = faces[i];
    std::memcpy(face.box.data(), boxes.const_data_ptr<float>() + 4 * i, sizeof(face.box));
    std::memcpy(face.landmarks.data(), landmarks.const_data_ptr<float>() + 10 * i, sizeof(face.landmarks));
    face.score = scores.const_data_ptr<float>()[i];
    face.turn = hosting::turn_of(face.landmarks);
    const float* embedding = embeddings.const_data_ptr<float>() + dimensions * static_cast<std::int64_t>(i);
    face.embedding.assign(embedding, embedding + dimensions);
  }
  return faces;
}

Problem problem_of(const images::ImageError& error, const std::string& called) {
  const std::string detail = called + " " + error.what() + ".";
  switch (error.refusal()) {
    case images::Refusal::kUnread:
      return {ProblemKind::kUnsupportedMedia, detail};
    case images::Refusal::kTooManyPixels:
    case images::Refusal::kTooManyBytes:
      return {ProblemKind::kTooLarge, detail};
    case images::Refusal::kMemory:
      return {ProblemKind::kQueueFull, detail};
    case images::Refusal::kDamaged:
    case images::Refusal::kFile:
      break;
  }
  return {ProblemKind::kUnreadable, detail};
}

}  // namespace

Engine::Engine(EngineOptions options, const ModelSlot& models, Metrics& metrics)
    : options_(options), models_(models), metrics_(metrics) {
  for (int i = 0; i < options_.workers; ++i) workers_.emplace_back(&Engine::work, this);
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  filled_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Engine::submit(const std::shared_ptr<Job>& job) {
  const std::lock_guard lock(mutex_);
  if (queue_.size() >= options_.queue) {
    throw Problem(ProblemKind::kQueueFull, "As many requests as are taken wait already; try again.");
  }
  queue_.push_back(job);
  metrics_.set_queue(queue_.size());
  filled_.notify_one();
}

// The next job that is still wanted, or null. Called with the mutex locked.
std::shared_ptr<Job> Engine::pop() {
  while (!queue_.empty()) {
    std::shared_ptr<Job> job = std::move(queue_.front());
    queue_.pop_front();
    metrics_.set_queue(queue_.size());
    const bool late = Clock::now() >= job->deadline;
    if (!late && (job->socket < 0 || !Connection::gone(job->socket))) {
      job->stages.emplace_back("queue", milliseconds_since(job->queued));
      return job;
    }
    metrics_.add_dropped(late ? "deadline" : "gone");
    const ProblemKind kind = late ? ProblemKind::kDeadline : ProblemKind::kGone;
    job->finish(std::make_exception_ptr(Problem(kind, "Nobody waits for the answer any more.")));
  }
  return nullptr;
}

// Called with the mutex locked; gives it up while it waits.
void Engine::take_more_crops(Jobs& jobs, std::unique_lock<std::mutex>& lock) {
  std::int64_t crops = static_cast<CropsJob&>(*jobs.front()).crops.size(0);
  const Clock::time_point until = jobs.front()->queued + options_.batch_delay;
  while (crops < options_.batch) {
    if (queue_.empty() && !ends_) filled_.wait_until(lock, until, [this] { return ends_ || !queue_.empty(); });
    const auto* next = queue_.empty() ? nullptr : dynamic_cast<const CropsJob*>(queue_.front().get());
    if (next == nullptr || crops + next->crops.size(0) > options_.batch) return;
    std::shared_ptr<Job> job = pop();
    if (!job) continue;
    // pop() may have passed over jobs to one of another kind.
    auto* more = dynamic_cast<CropsJob*>(job.get());
    if (more == nullptr || crops + more->crops.size(0) > options_.batch) {
      job->stages.clear();
      queue_.push_front(std::move(job));
      return;
    }
    crops += more->crops.size(0);
    jobs.push_back(std::move(job));
  }
}

Engine::Jobs Engine::take() {
  std::unique_lock lock(mutex_);
  for (;;) {
    filled_.wait(lock, [this] { return ends_ || !queue_.empty(); });
    std::shared_ptr<Job> job = pop();
    if (!job && ends_) return {};
    if (!job) continue;
    Jobs jobs{std::move(job)};
    if (dynamic_cast<CropsJob*>(jobs.front().get()) != nullptr) take_more_crops(jobs, lock);
    // A notice that woke this worker while it waited for crops may have been for what is left.
    if (!queue_.empty()) filled_.notify_one();
    return jobs;
  }
}

void Engine::work() {
  at::set_num_threads(1);  // workers are what runs side by side
  const c10::InferenceMode guard;
  for (Jobs jobs = take(); !jobs.empty(); jobs = take()) {
    std::exception_ptr error;
    try {
      const ModelPointer model = models_.current();
      for (const auto& job : jobs) job->model = model;
      if (auto* photo = dynamic_cast<PhotoJob*>(jobs.front().get())) {
        run_photo(*photo, model);
      } else if (auto* other = dynamic_cast<TaskJob*>(jobs.front().get())) {
        const Clock::time_point begin = Clock::now();
        other->task();
        other->stages.emplace_back(other->stage, milliseconds_since(begin));
      } else {
        run_crops(jobs, model);
      }
    } catch (...) {
      error = std::current_exception();
    }
    for (const auto& job : jobs) job->finish(error);
  }
}

void Engine::run_photo(PhotoJob& job, const ModelPointer& model) {
  const c10::InferenceMode guard;
  if (!model->network->takes_photos()) {
    throw Problem(ProblemKind::kUnavailable, "The model in use takes aligned crops, and finds no faces in photos.");
  }
  images::Image image;
  at::Tensor photo = job.pixels;
  if (!photo.defined()) {
    const Clock::time_point begin = Clock::now();
    try {
      image = images::decode_image({reinterpret_cast<const std::uint8_t*>(job.encoded.data()), job.encoded.size()},
                                   options_.images);
    } catch (const images::ImageError& error) {
      throw problem_of(error, job.called);
    }
    job.stages.emplace_back("decode", milliseconds_since(begin));
    photo = at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte);
  }
  const Clock::time_point begin = Clock::now();
  job.faces = faces_of(model->network->faces(photo));
  job.stages.emplace_back("faces", milliseconds_since(begin));
  job.height = static_cast<int>(photo.size(0));
  job.width = static_cast<int>(photo.size(1));
  metrics_.add_faces(job.faces.size());
}

void Engine::run_crops(const Jobs& jobs, const ModelPointer& model) {
  if (!model->network->embeds_crops()) {
    throw Problem(ProblemKind::kUnavailable,
                  "The model in use is a package for photos, which embeds no crops; export it as TorchScript.");
  }
  std::vector<at::Tensor> parts;
  for (const auto& job : jobs) parts.push_back(static_cast<const CropsJob&>(*job).crops);
  const Clock::time_point begin = Clock::now();
  const at::Tensor crops = parts.size() == 1 ? parts.front() : at::cat(parts);
  std::vector<at::Tensor> embedded;
  for (std::int64_t first = 0; first < crops.size(0); first += options_.batch) {
    const std::int64_t end = std::min(first + options_.batch, crops.size(0));
    metrics_.add_batch(static_cast<std::size_t>(end - first));
    embedded.push_back(model->network->embed_crops(crops.slice(0, first, end)));
  }
  const at::Tensor embeddings = embedded.size() == 1 ? embedded.front() : at::cat(embedded);
  const double milliseconds = milliseconds_since(begin);
  std::int64_t first = 0;
  for (const auto& shared : jobs) {
    auto& job = static_cast<CropsJob&>(*shared);
    job.embeddings = embeddings.slice(0, first, first + job.crops.size(0));
    first += job.crops.size(0);
    job.stages.emplace_back("crops", milliseconds);
  }
}

}  // namespace pocketnet::server
